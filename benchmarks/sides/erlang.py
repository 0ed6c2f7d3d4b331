"""Erlang/OTP's side: two nodes over TLS distribution, each verifying the other's certificate.

The work is in otp/bench.erl.  This program makes certificates (ECDSA P-256, as ours are), starts
an epmd of its own on a free port, so that a running one is neither used nor disturbed, and puts
a node beneath it with the options that `inet_tls_dist` needs; all else is at OTP's
defaults (distribution buffer busy limit +zdbbl 1024 KiB, schedulers' busy waiting on).

TLS 1.3 is asked for because OTP 25 speaks it between nodes but would settle for 1.2 by itself.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

HOST = "127.0.0.1"
SOURCE = Path(__file__).parent / "otp" / "bench.erl"
EPMD_TIMEOUT_S = 5.0


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def write_certificates(folder: Path) -> None:
    """An authority and one certificate for the host, good for both ends."""
    now = datetime.datetime.now(datetime.UTC)
    authority_key = ec.generate_private_key(ec.SECP256R1())
    key = ec.generate_private_key(ec.SECP256R1())

    def build(subject: str, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(_name(subject))
            .issuer_name(_name("benchmark authority"))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(minutes=5))
            .not_valid_after(now + datetime.timedelta(days=1))
        )

    authority = (
        build("benchmark authority", authority_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority_key, hashes.SHA256())
    )
    usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    names = [x509.DNSName("localhost")]
    certificate = (
        build("benchmark node", key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "ca.pem").write_bytes(authority.public_bytes(pem))
    (folder / "node.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "node.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def write_options(folder: Path) -> None:
    """`ssl_dist_optfile`: both ends show a certificate and verify the other's."""
    files = f"""{{cacertfile, "{folder}/ca.pem"}}, {{certfile, "{folder}/node.pem"}},
  {{keyfile, "{folder}/node.key"}}, {{verify, verify_peer}}, {{versions, ['tlsv1.3']}}"""
    (folder / "dist.conf").write_text(
        f"[{{server, [{files}, {{fail_if_no_peer_cert, true}}]}},\n {{client, [{files}]}}].\n"
    )


def node_command(folder: Path, name: str, function: str) -> list[str]:
    return [
        "erl", "-noshell", "-pa", str(folder),
        "-proto_dist", "inet_tls", "-ssl_dist_optfile", str(folder / "dist.conf"),
        "-kernel", "inet_dist_use_interface", "{127,0,0,1}",
        "-start_epmd", "false", "-setcookie", "benchmark", "-sname", f"{name}@localhost",
        "-run", "bench", function,
    ]  # fmt: skip


@contextlib.contextmanager
def own_epmd(port: int):  # type: ignore[no-untyped-def]
    """An epmd on a port of its own, for as long as the block lasts."""
    process = subprocess.Popen(["epmd", "-port", str(port), "-address", HOST])
    try:
        end = time.monotonic() + EPMD_TIMEOUT_S
        while True:
            try:
                socket.create_connection((HOST, port)).close()
                break
            except ConnectionRefusedError:
                if time.monotonic() > end:
                    sys.exit("epmd did not start")
                time.sleep(0.01)
        yield
    finally:
        process.kill()
        process.wait()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        port: int = listener.getsockname()[1]
        return port


def serve(folder: Path) -> None:
    write_certificates(folder)
    write_options(folder)
    compiled = subprocess.run(
        ["erlc", "-o", str(folder), str(SOURCE)], capture_output=True, text=True, check=False
    )
    if compiled.returncode:
        sys.exit(compiled.stdout.strip() or compiled.stderr.strip())
    port = free_port()
    environment = os.environ | {"ERL_EPMD_PORT": str(port), "ERL_CRASH_DUMP_SECONDS": "0"}
    with (
        own_epmd(port),
        subprocess.Popen(
            node_command(folder, "server", "serve"),
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        ) as node,
    ):
        assert node.stdout is not None
        line = node.stdout.readline()
        if not line.startswith("{"):
            sys.exit(f"the Erlang node said: {line.strip() or 'nothing'}")
        facts = json.loads(line) | {"folder": str(folder), "epmd_port": port}
        print(json.dumps(facts), flush=True)  # noqa: T201
        node.wait()  # it ends when our standard input, which is also its, closes


def run(ready: dict[str, str], kind: str, seconds: str, width: str) -> None:
    """Become the client node."""
    environment = os.environ | {
        "ERL_EPMD_PORT": str(ready["epmd_port"]),
        "ERL_CRASH_DUMP_SECONDS": "0",
    }
    command = node_command(Path(ready["folder"]), "client", "client")
    command += ["-extra", kind, seconds, width, ready["node"], str(ready["pid"])]
    os.execvpe(command[0], command, environment)


def main() -> None:
    match sys.argv[1:]:
        case ["serve", folder]:
            serve(Path(folder))
        case ["run", ready, kind, seconds, width]:
            run(json.loads(ready), kind, seconds, width)
        case _:
            sys.exit("usage: serve FOLDER | run READY KIND SECONDS WIDTH")


if __name__ == "__main__":
    main()
