"""A web page to prompt a model and to walk through its data; needs the extra `demo`, which only `page` imports.

drawing    requests checked, drawn step by step, stopped
extend     a short prompt to the long caption that a model of long captions was trained on
pictures   PNG files with their settings inside, data addresses
browse     the curated data of a working folder, searched
scores     its runs' curves and scores
page       the page itself; serve starts it
"""
