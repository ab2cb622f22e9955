package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Records of the first member before the second may join.
const begun = 20

type place struct {
	topic     string
	partition int32
}

type taken struct {
	place
	offset int64
	at     time.Time
	value  []byte
}

// Where a group is, in one partition.
type committed struct {
	offset int64
	epoch  bool
}

// A member of a group, in one of the clients.
type member interface {
	// Records that come within a moment.
	poll() ([]taken, error)
	// How many partitions it has.
	assigned() int
	// Whether it knows where it begins, in each of so many partitions.
	isPlaced(count int) bool
	commit() error
	committed() (map[place]committed, error)
	byTime(at time.Time) (map[place]int64, error)
	seek(to map[place]int64) error
	close() error
}

// Reads with members, and remembers what they read.
type groupStory struct {
	options
	join     func(options options, group, reset string) (member, error)
	count    int
	records  []taken
	ended    map[place]bool
	deadline time.Time
}

// Plays the act that is asked for, as programs.rs says under "group programs".
func playGroup(options options, join func(options options, group, reset string) (member, error)) error {
	count, err := strconv.Atoi(options["partitions"])
	if err != nil {
		return err
	}
	story := &groupStory{options: options, join: join, count: count, deadline: time.Now().Add(3 * time.Minute)}
	story.forget()
	switch options["act"] {
	case "share":
		return story.share()
	case "resume":
		return story.resume()
	}
	return story.tail()
}

func (s *groupStory) forget() {
	s.records, s.ended = nil, map[place]bool{}
}

func (s *groupStory) pollUntil(is func() bool, members ...member) error {
	for !is() {
		if time.Now().After(s.deadline) {
			return fmt.Errorf("not in time, with %d records, ended %v", len(s.records), s.ended)
		}
		for _, each := range members {
			records, err := each.poll()
			if err != nil {
				return err
			}
			for _, record := range records {
				s.records = append(s.records, record)
				if string(record.value) == s.options["until"] {
					s.ended[record.place] = true
				}
			}
		}
	}
	return nil
}

func (s *groupStory) isRead() bool { return len(s.ended) == s.count }

func (s *groupStory) hasAll(member member) func() bool {
	return func() bool { return member.assigned() == s.count }
}

func (s *groupStory) share() error {
	first, err := s.join(s.options, s.options["name"], "earliest")
	if err != nil {
		return err
	}
	if err := s.pollUntil(func() bool { return len(s.records) >= begun }, first); err != nil {
		return err
	}
	s.tell("begun", "")
	mayJoin := func() bool { _, err := os.Stat(s.options["join"]); return err == nil }
	if err := s.pollUntil(mayJoin, first); err != nil {
		return err
	}
	second, err := s.join(s.options, s.options["name"], "earliest")
	if err != nil {
		return err
	}
	isSplit := func() bool {
		return min(first.assigned(), second.assigned()) > 0 && first.assigned()+second.assigned() == s.count
	}
	if err := s.pollUntil(isSplit, first, second); err != nil {
		return err
	}
	s.tell("joined", "")
	if err := s.pollUntil(s.isRead, first, second); err != nil {
		return err
	}
	for _, each := range []member{first, second} {
		if err := each.commit(); err != nil {
			return err
		}
	}
	s.tell("read together", s.ranges())
	if err := second.close(); err != nil {
		return err
	}
	if err := s.pollUntil(s.hasAll(first), first); err != nil {
		return err
	}
	found, err := first.committed()
	if err != nil {
		return err
	}
	s.tell("committed", byName(found, func(at committed) string {
		if at.epoch {
			return fmt.Sprintf("%d with its epoch", at.offset)
		}
		return fmt.Sprintf("%d without an epoch", at.offset)
	}))
	return first.close()
}

func (s *groupStory) resume() error {
	resumed, err := s.join(s.options, s.options["name"], "none")
	if err != nil {
		return err
	}
	if err := s.pollUntil(s.hasAll(resumed), resumed); err != nil {
		return err
	}
	at, err := resumed.committed()
	if err != nil {
		return err
	}
	s.tell("resumed at", byName(at, func(at committed) string { return fmt.Sprint(at.offset) }))
	if err := s.pollUntil(s.isRead, resumed); err != nil {
		return err
	}
	s.tell("read since", s.ranges())
	var times []time.Time
	for _, record := range s.records {
		times = append(times, record.at)
	}
	slices.SortFunc(times, time.Time.Compare)
	found, err := resumed.byTime(times[len(times)/2])
	if err != nil {
		return err
	}
	s.tell("by time", byName(found, number))
	s.forget()
	if err := resumed.seek(found); err != nil {
		return err
	}
	if err := s.pollUntil(s.isRead, resumed); err != nil {
		return err
	}
	s.tell("read from that time", s.ranges())
	if err := resumed.close(); err != nil {
		return err
	}
	s.forget()
	fresh, err := s.join(s.options, s.options["name"]+"-earliest", "earliest")
	if err != nil {
		return err
	}
	firsts := map[place]int64{}
	isEach := func() bool {
		for _, record := range s.records {
			if _, known := firsts[record.place]; !known {
				firsts[record.place] = record.offset
			}
		}
		return len(firsts) == s.count
	}
	if err := s.pollUntil(isEach, fresh); err != nil {
		return err
	}
	s.tell("earliest", byName(firsts, number))
	return fresh.close()
}

func (s *groupStory) tail() error {
	waiting, err := s.join(s.options, s.options["name"]+"-tail", "latest")
	if err != nil {
		return err
	}
	if err := s.pollUntil(func() bool { return waiting.isPlaced(s.count) }, waiting); err != nil {
		return err
	}
	s.tell("at the end", "")
	if err := s.pollUntil(s.isRead, waiting); err != nil {
		return err
	}
	s.tell("read at the end", s.ranges())
	return waiting.close()
}

// First and last offset of each partition, and how many records.
func (s *groupStory) ranges() string {
	offsets := map[place][]int64{}
	for _, record := range s.records {
		offsets[record.place] = append(offsets[record.place], record.offset)
	}
	return byName(offsets, func(all []int64) string {
		slices.Sort(all)
		count := len(all)
		all = slices.Compact(all)
		return fmt.Sprintf("%d to %d, %d offsets, %d records", all[0], all[len(all)-1], len(all), count)
	})
}

func (s *groupStory) tell(step, what string) {
	output.Lock()
	defer output.Unlock()
	fmt.Printf("%s: %s: %s\n", s.options["name"], step, what)
}

func number(at int64) string { return fmt.Sprint(at) }

func byName[T any](places map[place]T, show func(T) string) string {
	var all []string
	for at, what := range places {
		all = append(all, fmt.Sprintf("%s-%d=%s", at.topic, at.partition, show(what)))
	}
	slices.Sort(all)
	return "{" + strings.Join(all, ", ") + "}"
}
