"""Folders of small images of one color."""

from PIL import Image

from tessera.curate.collect.collect import CollectConfig

FOLDER = CollectConfig(source="my-pictures", size=16)


def put(path, color=(9, 9, 9), size=(20, 20)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path
