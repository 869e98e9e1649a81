"""Alternatives to the plain model, one file per idea, chosen by the fields of `ModelConfig`.

`build.py` turns the fields into modules and is imported only when a config asks for something that `model.py` does
not hold itself. What a new file has to offer:

    feed-forward   an nn.Module, forward(x (..., seq, d_model)) -> the same shape
    mixer          an nn.Module, forward(x, token_positions=None, cache=None) -> the same shape,
                   new_cache(batch, capacity) -> an object that forward reads and fills; forward gets None in training
    either         may set `auxiliary_loss` (a scalar tensor, or None) in forward; TransformerLM.auxiliary_loss sums
                   them and training adds the sum

Attention whose attribute `reads_shared` is true gets a fourth argument, a `shared_state.SharedState`: what the layers
of one forward pass tell each other. With value_residual its values pass through
`value_residual.ValueResidual(num_kv_heads, device=, dtype=)`, called with (values, first_values), both of shape
(..., kv_heads, seq, d_v).
"""
