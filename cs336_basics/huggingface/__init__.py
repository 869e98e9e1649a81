"""Checkpoints of the ecosystem: Hugging Face folders of Llama and Qwen2.5 models, read and written.

Reading order: config.py, folder.py, cli.py.
"""
