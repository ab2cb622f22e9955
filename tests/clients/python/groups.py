"""What members of groups do in all Python clients, as programs.rs says under "group programs".

A client's Member has poll() -> records as (topic, partition, offset, timestamp, value), assignment() and committed() by
(topic, partition), the latter as (offset, whether with an epoch: None where nobody knows), commit(), by_time(), seek() and close()."""

import faulthandler
import os
import sys
import time

OPTIONS = dict(word.split("=", 1) for word in sys.argv[1:])
NAME = OPTIONS["name"]
TOPICS = OPTIONS["topics"].split(",")
PARTITIONS = int(OPTIONS["partitions"])
# Records of the first member before the second may join.
BEGUN = 20
DEADLINE = time.monotonic() + 180
# Where it hangs, for whoever reads what a failed test kept.
faulthandler.dump_traceback_later(85)


class Story:
    """Reads with members, and remembers what they read."""

    def __init__(self):
        self.forget()

    def forget(self):
        self.records = []
        self.ended = set()

    def poll(self, *members):
        if time.monotonic() > DEADLINE:
            raise TimeoutError(f"not in time, with {len(self.records)} records, ended {self.ended}")
        for member in members:
            for topic, partition, offset, timestamp, value in member.poll():
                self.records.append((topic, partition, offset, timestamp))
                if value == OPTIONS["until"].encode():
                    self.ended.add((topic, partition))

    def poll_until(self, is_so, *members):
        while not is_so():
            self.poll(*members)

    def is_read(self):
        return len(self.ended) == PARTITIONS

    def ranges(self):
        found = {}
        for topic, partition, offset, _ in self.records:
            found.setdefault((topic, partition), []).append(offset)
        return by_name(
            {
                place: f"{min(all)} to {max(all)}, {len(set(all))} offsets, {len(all)} records"
                for place, all in found.items()
            }
        )


def play(member):
    """Plays the act that is asked for; member makes a member of a group with its reset."""
    {"share": share, "resume": resume, "tail": tail}[OPTIONS["act"]](member, Story())


def share(member, story):
    first = member(NAME, "earliest")
    story.poll_until(lambda: len(story.records) >= BEGUN, first)
    tell("begun", "")
    story.poll_until(lambda: os.path.exists(OPTIONS["join"]), first)
    second = member(NAME, "earliest")

    def is_split():
        sizes = [len(each.assignment()) for each in (first, second)]
        return min(sizes) > 0 and sum(sizes) == PARTITIONS

    story.poll_until(is_split, first, second)
    tell("joined", "")
    story.poll_until(story.is_read, first, second)
    first.commit()
    second.commit()
    tell("read together", story.ranges())
    second.close()
    story.poll_until(lambda: len(first.assignment()) == PARTITIONS, first)
    committed = first.committed().items()
    words = {True: "with its epoch", False: "without an epoch", None: "with or without an epoch"}
    tell("committed", by_name({place: f"{offset} {words[epoch]}" for place, (offset, epoch) in committed}))
    first.close()


def resume(member, story):
    resumed = member(NAME, "none")
    story.poll_until(lambda: len(resumed.assignment()) == PARTITIONS, resumed)
    tell("resumed at", by_name({place: offset for place, (offset, _) in resumed.committed().items()}))
    story.poll_until(story.is_read, resumed)
    tell("read since", story.ranges())
    times = sorted(timestamp for _, _, _, timestamp in story.records)
    found = resumed.by_time(times[len(times) // 2])
    tell("by time", by_name(found))
    for place, offset in found.items():
        resumed.seek(place, offset)
    story.forget()
    story.poll_until(story.is_read, resumed)
    tell("read from that time", story.ranges())
    resumed.close()
    story.forget()
    fresh = member(NAME + "-earliest", "earliest")
    story.poll_until(lambda: len({record[:2] for record in story.records}) == PARTITIONS, fresh)
    firsts = {}
    for topic, partition, offset, _ in story.records:
        firsts.setdefault((topic, partition), offset)
    tell("earliest", by_name(firsts))
    fresh.close()


def tail(member, story):
    waiting = member(NAME + "-tail", "latest")
    story.poll_until(waiting.is_placed, waiting)
    tell("at the end", "")
    story.poll_until(story.is_read, waiting)
    tell("read at the end", story.ranges())
    waiting.close()


def by_name(places):
    named = {f"{topic}-{partition}": what for (topic, partition), what in places.items()}
    return "{" + ", ".join(f"{name}={named[name]}" for name in sorted(named)) + "}"


def tell(step, what):
    print(f"{NAME}: {step}: {what}", flush=True)
