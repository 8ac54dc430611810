"""llama.cpp's own HTTP server for one GGUF file, through `xllamacpp`; prints its address, and ends with its input.

python benchmarks/peer_llamacpp.py FILE.gguf --slots 32 --context 512
"""

import argparse
import sys

import psutil
import xllamacpp


def main() -> None:
    """Host the file until the standard input is closed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file")
    parser.add_argument("--slots", type=int, required=True, help="answers computed at once")
    parser.add_argument("--context", type=int, required=True, help="tokens of each")
    options = parser.parse_args()
    settings = xllamacpp.CommonParams()
    settings.model.path = options.file
    settings.n_parallel = options.slots
    settings.n_ctx = options.slots * options.context
    settings.verbosity = -1
    settings.cpuparams.n_threads = psutil.cpu_count(logical=False) or 1
    server = xllamacpp.Server(settings)
    print(server.listening_address, flush=True)
    sys.stdin.read()
    del server


if __name__ == "__main__":
    main()
