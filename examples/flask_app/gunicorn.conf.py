"""Gunicorn's settings for reviews; the first line makes it speak mutual TLS."""

from meshsec.servers.gunicorn import *  # noqa: F403

bind = "127.0.0.1:8444"
worker_class = "gthread"
threads = 8
keepalive = 30  # longer than any client of ours keeps an idle connection
