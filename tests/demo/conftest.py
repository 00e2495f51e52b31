"""A working folder with two untrained models of 8 px images, and the page about it in a process of its own."""

import pytest

from tiny.demo import Server, save_model


@pytest.fixture(scope="session")
def workspace(tmp_path_factory):
    from tessera.curate.augment import AugmentConfig, augment
    from tessera.curate.caption.caption import CaptionConfig, caption
    from tessera.curate.collect.collect import CollectConfig, collect
    from tessera.miniature import WorldConfig

    out = tmp_path_factory.mktemp("workspace")
    collect(out / "images", CollectConfig(size=32, world=WorldConfig(num_images=40, size=32, seed=3)))
    augment(out / "recipe", out / "images", AugmentConfig())
    caption(out / "captions" / "plain-scene", out / "images", CaptionConfig(captioner="scene"))
    mixed = out / "captions" / "augmented-scene"
    caption(mixed, out / "images", CaptionConfig(captioner="scene"), recipe=out / "recipe")
    save_model(out / "export" / "ta", 0)
    save_model(out / "export" / "ta_ia", 1)
    run = out / "runs" / "ta"
    run.mkdir(parents=True)
    (run / "log.jsonl").write_text('{"num_images": 10, "loss": 0.5}\n{"num_images": 20, "loss": 0.25}\n{"num_im')
    return out


@pytest.fixture(scope="session")
def server(workspace, tmp_path_factory):
    pytest.importorskip("gradio", reason="the extra demo (gradio) is not installed")
    running = Server(workspace / "export" / "ta", tmp_path_factory.mktemp("server") / "noted.txt")
    yield running
    assert running.close() == 0
    assert running.noted.read_text() == "", "the page's server reached for the network"
    assert "Traceback" not in running.log.read_text()


@pytest.fixture
def page(browser, server):
    """The page, opened; fails at the end on an error in it or a request to anywhere else."""
    opened = browser.new_page(viewport={"width": 1200, "height": 950})
    opened.set_default_timeout(60_000)
    requests, errors = [], []
    opened.on("request", lambda request: requests.append(request.url))
    opened.on("pageerror", lambda error: errors.append(str(error)))
    opened.goto(server.address)
    opened.wait_for_selector("#prompt textarea")
    yield opened
    opened.close()
    assert [url for url in requests if not url.startswith((server.address, "data:", "blob:"))] == []
    assert errors == []
