"""Exit with one sentence unless a server can listen on the given port of this machine."""

import os
import socket
import sys

given = sys.argv[1]
try:
    socket.create_server(("127.0.0.1", int(given))).close()
except (ValueError, OverflowError):
    sys.exit(f"SERVE_PORT={given} is not a port: use a number from 1 to 65535, as in SERVE_PORT=3400 make run")
except OSError as error:
    another = 3400 if given != "3400" else 3401
    reason = os.strerror(error.errno).lower() if error.errno else str(error)
    sys.exit(f"Port {given} is unavailable ({reason}). Choose another: SERVE_PORT={another} make run")
