"""TLS: what is said of certificates, and how to use one."""

import http.server
import ssl
import subprocess
import threading

import pytest

from vllm_adapters import AsyncVLLMClient, VLLMClient, VLLMServer, errors


class Models(http.server.BaseHTTPRequestHandler):
    """Serves a list of models."""

    def do_GET(self):
        body = b'{"object": "list", "data": []}'
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def serve(context):
    class Server(http.server.ThreadingHTTPServer):
        def finish_request(self, request, address):  # in the thread of the connection
            if context is not None:
                try:
                    request = context.wrap_socket(request, server_side=True)
                except (ssl.SSLError, ConnectionError):
                    return  # the client refuses the certificate
            super().finish_request(request, address)
            if context is not None:
                request.close()

    server = Server(("127.0.0.1", 0), Models)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "key.pem", folder / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(files[0]), "-out", str(files[1])]
    try:
        subprocess.run(command, check=True, capture_output=True)
    except FileNotFoundError:
        pytest.skip("needs openssl, which makes a certificate")
    return files


@pytest.fixture
def https(certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[1], certificate[0])
    server = serve(context)
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


@pytest.fixture
def plain():
    server = serve(None)
    yield server.server_address[1]
    server.shutdown()
    server.server_close()


def trusted(certificate):
    return {"verify": ssl.create_default_context(cafile=certificate[1])}


async def test_untrusted_certificate_is_named(https):
    url = f"https://localhost:{https}"
    with pytest.raises(errors.ServerUnreachable, match="certificate is not trusted") as caught:
        VLLMClient(url, max_retries=0).models.list()
    assert "SSL_CERT_FILE" in str(caught.value)
    assert "Is it running" not in str(caught.value)
    async with AsyncVLLMClient(url, max_retries=0) as client:
        with pytest.raises(errors.ServerUnreachable, match="certificate is not trusted"):
            await client.models.list()
    with pytest.raises(errors.ServerTimeout, match="at last: The server's certificate is not trusted"):
        VLLMServer(url).wait_until_ready(0.01, every=0.01)


async def test_certificate_of_the_options_is_trusted(https, certificate):
    url, options = f"https://localhost:{https}", trusted(certificate)
    with VLLMClient(url, http_options=options) as client:
        assert client.models.list().data == []
    async with AsyncVLLMClient(url, http_options=options) as client:
        assert (await client.models.list()).data == []


def test_certificate_of_another_host_is_named(https, certificate):
    client = VLLMClient(f"https://127.0.0.1:{https}", http_options=trusted(certificate), max_retries=0)
    with pytest.raises(errors.ServerUnreachable, match=r"for another host.*Use a host that the certificate names"):
        client.models.list()
    client.close()


def test_server_without_tls_is_named(plain):
    client = VLLMClient(f"https://localhost:{plain}", max_retries=0)
    with pytest.raises(errors.ServerUnreachable, match=r"does not speak TLS.*Use http://"):
        client.models.list()
    client.close()
