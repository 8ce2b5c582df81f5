"""A stand-in for Kaggle's server on loopback, and the real client sent to it instead."""

import json
import os
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

CLIENT = Path(sys.executable).with_name("kaggle")
CREATE_DATASET = "datasets.DatasetApiService/CreateDataset"
CREATE_DATASET_VERSION = "datasets.DatasetApiService/CreateDatasetVersion"
SAVE_KERNEL = "kernels.KernelsApiService/SaveKernel"
SUBMIT = "competitions.CompetitionApiService/CreateCodeSubmission"
_START_UPLOAD = "blobs.BlobApiService/StartBlobUpload"
# What Kaggle answers when all is well; any other call, such as whether a dataset is there already, gets 404.
_ANSWERS = {
    CREATE_DATASET: {"status": "ok", "url": "https://www.kaggle.com/datasets/stub"},
    CREATE_DATASET_VERSION: {"status": "ok", "url": "https://www.kaggle.com/datasets/stub"},
    SAVE_KERNEL: {"ref": "/code/stub", "url": "https://www.kaggle.com/code/stub", "versionNumber": 7},
    SUBMIT: {"message": "Successfully submitted", "ref": 1},
}


class KaggleStub(ThreadingHTTPServer):
    """Records the calls that a client makes through it as its proxy.

    Attributes:
        calls: (service and method, JSON body) in order.
        uploads: bytes by name of the file.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.calls: list[tuple[str, Any]] = []
        self.uploads: dict[str, bytes] = {}

    def bodies(self, call: str) -> list[Any]:
        return [body for name, body in self.calls if name == call]

    def run_client(self, *arguments: str, home_dir: Path) -> subprocess.CompletedProcess:
        """Runs `kaggle …` so that every request comes here, with credentials that are none."""
        home_dir.mkdir(exist_ok=True)
        proxy = f"http://127.0.0.1:{self.server_port}"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("KAGGLE_")} | {
            "KAGGLE_API_ENVIRONMENT": "LOCALHOST",
            "KAGGLE_USERNAME": "alice",
            "KAGGLE_KEY": "none",
            "KAGGLE_CONFIG_DIR": str(home_dir),
            "HOME": str(home_dir),
            "TMPDIR": str(home_dir),  # where the client remembers uploads that it may resume
            **dict.fromkeys(("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy"), proxy),
            **dict.fromkeys(("NO_PROXY", "no_proxy"), ""),
        }
        command = [str(CLIENT), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)


class _Handler(BaseHTTPRequestHandler):
    server: KaggleStub

    def do_POST(self) -> None:
        name = urlsplit(self.path).path.removeprefix("/api/v1/")
        body = json.loads(self._read())
        self.server.calls.append((name, body))
        if name == _START_UPLOAD:
            self._answer(200, {"token": body["name"], "createUrl": f"http://localhost/upload/{body['name']}"})
        else:
            self._answer(200 if name in _ANSWERS else 404, _ANSWERS.get(name, {"code": 404, "message": "Not found"}))

    def do_PUT(self) -> None:
        self.server.uploads[Path(urlsplit(self.path).path).name] = self._read()
        self._answer(200, {})

    def _read(self) -> bytes:
        return self.rfile.read(int(self.headers["Content-Length"]))

    def _answer(self, status: int, content: dict[str, Any]) -> None:
        encoded = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(encoded)))
        self.end_headers()
        self.wfile.write(encoded)

    def log_message(self, *_: Any) -> None:
        """Nothing on the terminal."""
