from . import data_pages
PROBLEMS = {"extract_text": (3, data_pages.extract_text)}
