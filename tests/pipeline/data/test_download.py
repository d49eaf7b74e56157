import hashlib
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from pipeline.data import download as downloading
from pipeline.data import named
from pipeline.data.catalogue import CATALOGUE
from pipeline.data.names import NAMES
from tests.pipeline.data import made
from tests.pipeline.data.made import Made


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[str]:
    """A server of the folder `mirror`."""
    (tmp_path / "mirror").mkdir()
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "mirror"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def point_to(mirror: str, files: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let torchvision download these files from the mirror."""
    place = f"torchvision.datasets.{files.entry.loader}"
    sums = [(name, hashlib.md5(content).hexdigest()) for name, content in files.published.items()]
    if files.entry.archive:
        monkeypatch.setattr(f"{place}.url", f"{mirror}gzip.zip")
        monkeypatch.setattr(f"{place}.md5", sums[0][1])
    elif files.entry.name == "qmnist":
        urls = [(f"{mirror}{name}", md5) for name, md5 in sums]
        monkeypatch.setattr(f"{place}.resources", {"train": urls[:2], "test": urls[2:]})
    else:
        monkeypatch.setattr(f"{place}.mirrors", [mirror])
        monkeypatch.setattr(f"{place}.resources", sums)
    monkeypatch.setitem(CATALOGUE, files.entry.name, files.entry)


@pytest.mark.parametrize("name", NAMES)
def test_missing_data_set_is_downloaded_once(
    name: str, mirror: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    files = made.make(name)
    files.write(tmp_path / "mirror")
    point_to(mirror, files, monkeypatch)
    dataset = named.load(name, "full", None, None, tmp_path / "data")
    assert (len(dataset.train), len(dataset.read_test()), dataset.source) == (220, 60, "download")
    assert "is not checked" not in caplog.text
    monkeypatch.setattr(named, "download", lambda *_: pytest.fail("started a second download"))
    assert named.load(name, "full", None, None, tmp_path / "data").digest == dataset.digest


@pytest.mark.parametrize("name", NAMES)
def test_download_without_an_answer_fails_with_its_reason(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = made.make(name)
    point_to("http://127.0.0.1:9/", files, monkeypatch)
    problem = downloading.download(files.entry, tmp_path)
    assert problem is not None
    assert "refused" in problem


@pytest.mark.parametrize("name", ["mnist", "qmnist"])
def test_stalled_download_is_abandoned(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    release, downloaded = threading.Event(), threading.Event()

    def hang(_: object) -> None:
        release.wait(60)
        downloaded.set()

    monkeypatch.setattr(f"torchvision.datasets.{CATALOGUE[name].loader}.download", hang)
    monkeypatch.setattr(downloading, "STALL_TIMEOUT", 1.0)
    problem = downloading.download(CATALOGUE[name], tmp_path)
    assert problem == "no progress within 1 s"
    assert not downloaded.is_set()
    release.set()
