"""Hosts that are threads of one process, with a store of their own."""

import threading
from concurrent.futures import ThreadPoolExecutor

from ti_flax.hosts import group as hosts
from ti_flax.hosts.group import Group


class Store(dict):
    """The calls of JAX's client that hosts use, in one process."""

    def __init__(self):
        self.lock = threading.Lock()

    def key_value_increment(self, key, by):
        with self.lock:
            self[key] = self.get(key, 0) + by
            return self[key]

    def key_value_set(self, key, value):
        with self.lock:
            assert key not in self
            self[key] = value

    def key_value_dir_get(self, folder):
        with self.lock:
            return [(key, value) for key, value in self.items() if key.startswith(folder)]

    def key_value_delete(self, key):
        with self.lock:
            del self[key]


def group_of(count, timeout=20):
    store = Store()
    return [Group(store, host, count, timeout) for host in range(count)]


def together(group, work):
    """What each host's work gives, or raises, with all of them at it; `work` takes the host."""

    def one(host):
        with hosts.in_group(host):
            try:
                return work(host)
            except BaseException as error:
                return error

    with ThreadPoolExecutor(len(group)) as pool:
        return list(pool.map(one, group))
