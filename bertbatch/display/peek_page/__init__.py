"""The HTML page of one text's attention.

`page.py` fills `page.html` with the style, the script and what they show; `page.css` and `page.js`
know nothing of models. Weights are quantized in `weights.py`.
"""
