"""The collect stage: any source of labeled images to class folders of square crops."""
