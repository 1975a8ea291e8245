"""What a language model is; knows nothing of training or losses.

One legend of letters, in types, einsums and logical axes alike: b batch, t query position, s key position, d model
width, h query heads, k key/value heads, g = h / k, c head channels, f feed-forward width, e experts, v vocabulary,
l layers, n tokens (flat), r experts a token is routed to, p periods of the layer pattern, m MoE layers of a period.

Of images: i tiles of a row, c colours, y and x rows and columns; in the vision tower i pixels and colours of a patch,
n patches and the class token, w width, s channels after pixel shuffle, a adapter width, k patch tokens of a tile.
"""

from flax import nnx

# Modules are plain pytrees: jax.jit, grad, scan and optax take them as they are.
nnx.set_graph_mode(False)
