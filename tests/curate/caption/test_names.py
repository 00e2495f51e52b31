"""The image that a name in a captions file means: spelled otherwise, from another place, or of another split."""

import pytest

from tessera.curate.caption.names import ImageNames, image_names
from tessera.curate.index import ImageRow


def names_of(*sources):
    rows = [
        ImageRow(f"{source.split('/')[-2]}/{source.split('/')[-1][:-4]}", "", f"crop{n}.png", 8, 8, source, None)
        for n, source in enumerate(sources)
    ]
    return ImageNames(rows, image_names(rows))


@pytest.mark.parametrize(
    ("name", "rank"),
    [
        ("cat/a b.jpg", 0),
        ("cat/a b", 0),
        ("a b", 0),
        ("photos/cat/a b.jpg", 1),
        ("/data/set/cat/a b.jpg", 1),
        ("C:/photos/cat/a b.jpg", 1),
        ("../photos/cat/a b.jpg", 1),
        ("cat/a%20b.jpg", 1),
        ("Cat/A B.JPG", 1),
        ("train/cat/a b.jpg", 1),
        ("file:///data/cat/a%20b.jpg", 1),
        ("https://host/set/cat/a%20b.jpg", 1),
        ("https://host/set/cat/a%20b.jpg?width=512&sig=a/b#top", 1),
        ("cat/x/../a b.jpg", 1),
    ],
)
def test_a_name_that_comes_near_one_image_means_it(name, rank):
    assert names_of("cat/a b.jpg", "dog/a c.jpg").find(name) == (rank, "cat/a b")


def test_folders_of_the_set_may_be_left_away_and_other_splits_are_not_meant():
    names = names_of("train/cat/1.jpg", "train/dog/2.jpg")
    assert names.find("train/cat/1.jpg") == (0, "cat/1")
    assert names.find("photos/train/cat/1.jpg") == (1, "cat/1")
    assert names.find("dog/2.jpg") == (0, "dog/2")
    assert names.find("val/cat/1.jpg") is None
    assert names.find("photos/Test/cat/1.jpg") is None


def test_what_is_near_to_several_images_or_to_none_means_none():
    names = names_of("Cat/1.jpg", "cat/1.jpg", "dog/2.jpg")
    assert names.find("CAT/1.jpg") is None
    assert names.find("other/2.jpg") is None
    assert names.find("dog/3.jpg") is None
