"""A fake of vLLM's server process: serves /v1/models, and can crash, hang, or start children."""

import json
import os
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

arguments = sys.argv[1:]
name = arguments[arguments.index("--served-model-name") + 1]
port = int(arguments[arguments.index("--port") + 1])
if report := os.environ.get("FAKE_REPORT"):
    Path(report).write_text(json.dumps({"arguments": arguments, "environ": dict(os.environ)}))
print("INFO fake vllm is starting", flush=True)
if "--die" in arguments:
    print("\n".join(f"line {i}" for i in range(40)))
    sys.exit("RuntimeError: the engine core did not start")
if "--hang" in arguments:
    time.sleep(3600)
if children := os.environ.get("FAKE_CHILDREN"):
    # One child in the server's process group, and one in a new session, as engine processes may be.
    child = [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(3600)"]
    pids = [subprocess.Popen(child).pid, subprocess.Popen(child, start_new_session=True).pid]
    Path(children).write_text(json.dumps(pids))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        if (key := os.environ.get("VLLM_API_KEY")) and self.headers["Authorization"] != f"Bearer {key}":
            self.send_error(401)
            return
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"data": [{"id": name}]}).encode())


HTTPServer(("127.0.0.1", port), Handler).serve_forever()
