"""A web page to prompt a model and to walk through its data; needs the extra `demo`, which only `page` imports.

drawing    requests checked, drawn step by step, stopped
turns      the line of those who wait
studio     the work behind the buttons
extender   a short prompt to the long caption that a model of long captions was trained on
browse     the curated data of a working folder, searched
runs       its runs' curves and scores
page       the page itself; serve starts it
"""
