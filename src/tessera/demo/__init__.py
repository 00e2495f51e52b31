"""A web page to prompt a model and to walk through its data; needs the extra `demo`, which only `page` imports.

`serve` starts `page`, whose work is done by `studio` and `drawing` (drawings of visitors who take turns), `extender` (a
short prompt to a long caption) and `browse` (data, curves and scores of a working folder).
"""
