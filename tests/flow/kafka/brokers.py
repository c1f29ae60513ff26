"""Real Apache Kafka on loopback: one broker or three, in KRaft mode, from the jars that `install` gathers."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import uuid
from base64 import urlsafe_b64encode
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

sys.path.insert(0, str(Path(__file__).parents[2]))

from needs import missing, need_program
from ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

INSTALL = "tests/flow/kafka/install (needs Java 17 and Maven)"
START_S = 240


def jars() -> Path:
    """The folder of Kafka's jars; without it the test is skipped."""
    cache = Path(os.environ.get("OTEL_COST_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")) / "otel-cost")
    built = sorted(cache.expanduser().glob("kafka-*/complete"), key=lambda path: path.stat().st_mtime)
    return built[-1].parent / "jars" if built else Path(missing("kafka", INSTALL))


class Kafka:
    """A cluster. `brokers` are numbered from 1; each is broker and controller at once."""

    def __init__(self, folder: Path, brokers: int = 1) -> None:
        self._java = need_program("java", "apt-get install openjdk-17-jre-headless")
        self._jars, self._folder = jars(), folder
        self.numbers = range(1, brokers + 1)
        ports = free_ports(2 * brokers)
        self._ports = dict(zip(self.numbers, ports[:brokers], strict=True))
        controllers = dict(zip(self.numbers, ports[brokers:], strict=True))
        self.bootstrap = ",".join(f"127.0.0.1:{port}" for port in self._ports.values())
        self.running: dict[int, subprocess.Popen[bytes]] = {}
        # One that begins with "-", as every 64th does, would be read as an option.
        cluster = urlsafe_b64encode(b"\0" + uuid.uuid4().bytes[1:]).decode().rstrip("=")
        voters = ",".join(f"{number}@127.0.0.1:{port}" for number, port in controllers.items())
        formats = []
        for number in self.numbers:
            home = folder / f"broker-{number}"
            home.mkdir(parents=True)
            (home / "server.properties").write_text(
                f"process.roles=broker,controller\nnode.id={number}\ncontroller.quorum.voters={voters}\n"
                f"listeners=PLAINTEXT://127.0.0.1:{self._ports[number]},CONTROLLER://127.0.0.1:{controllers[number]}\n"
                f"advertised.listeners=PLAINTEXT://127.0.0.1:{self._ports[number]}\n"
                "controller.listener.names=CONTROLLER\n"
                "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT\n"
                f"log.dirs={home / 'data'}\nauto.create.topics.enable=false\n"
                f"default.replication.factor={brokers}\noffsets.topic.replication.factor={brokers}\n"
                f"min.insync.replicas={max(1, brokers - 1)}\noffsets.topic.num.partitions=4\n"
                f"transaction.state.log.replication.factor={brokers}\ntransaction.state.log.min.isr=1\n"
                "group.initial.rebalance.delay.ms=0\nmessage.max.bytes=12000000\n"
            )
            formats.append(self._run(number, "kafka.tools.StorageTool", "format", "-t", cluster, "-c"))
        for format_ in formats:
            assert format_.wait(START_S) == 0, (folder / "broker-1" / "log.txt").read_text()

    def _run(self, number: int, main: str, *arguments: str) -> subprocess.Popen[bytes]:
        home = self._folder / f"broker-{number}"
        heap = ["-Xmx512m", "-Xms128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1"]
        command = [self._java, *heap, "-cp", f"{self._jars}/*", main, *arguments, str(home / "server.properties")]
        with (home / "log.txt").open("ab") as log:
            return subprocess.Popen(command, stdout=log, stderr=log)

    def start(self, *numbers: int) -> None:
        """Start some brokers, or all, and wait until the cluster answers."""
        for number in numbers or self.numbers:
            self.running[number] = self._run(number, "kafka.Kafka")
        deadline = time.monotonic() + START_S
        while True:
            with suppress(KafkaException):
                known = self.admin().list_topics(timeout=2).brokers
                if len(known) == len(self.running):
                    return
            for number, process in self.running.items():
                assert process.poll() is None, (self._folder / f"broker-{number}" / "log.txt").read_text()[-4000:]
            assert time.monotonic() < deadline, "Kafka does not come up"
            time.sleep(0.2)

    def kill(self, number: int) -> None:
        """As a machine that loses power, but for its disk."""
        process = self.running.pop(number)
        process.kill()
        process.wait()

    def stop(self) -> None:
        for number in list(self.running):
            self.kill(number)

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.bootstrap, "log_level": 0})

    def create(self, **partitions: int) -> None:
        """Topics by name, with so many partitions each."""
        new = [NewTopic(name, number) for name, number in partitions.items()]
        admin = self.admin()  # kept until it has answered
        for made in admin.create_topics(new, operation_timeout=120).values():
            made.result()

    def records(self, topic: str) -> list[Any]:
        """Everything that is in a topic now."""
        reader = Consumer({"bootstrap.servers": self.bootstrap, "group.id": f"test-{uuid.uuid4()}", "log_level": 0})
        try:
            known = reader.list_topics(topic, timeout=60).topics[topic].partitions
            found = []
            for partition in known:
                low, high = reader.get_watermark_offsets(TopicPartition(topic, partition), timeout=60)
                reader.assign([TopicPartition(topic, partition, low)])
                while low < high:
                    message = reader.poll(60)
                    assert message is not None
                    assert message.error() is None, message.error()
                    found.append(message)
                    low = message.offset() + 1
            return found
        finally:
            reader.close()


def cluster(folder: Path, brokers: int) -> Iterator[Kafka]:
    """For fixtures: started, and stopped whatever comes."""
    made = Kafka(folder, brokers)
    try:
        made.start()
        yield made
    finally:
        made.stop()
