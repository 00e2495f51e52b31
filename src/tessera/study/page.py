def write_page(study, out, found):
    pass
