// Clients in Go as judges of mirrors: readers beside each other, until each has seen the value "end" in every partition.
// Arguments are key=value, readers are divided by "and"; programs.rs says what the keys mean.
package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

type options map[string]string

// One reader: what it was asked for, and what it has seen.
type reader struct {
	options
	topics []string
	pace   time.Duration
	lock   sync.Mutex
	ended  map[string]bool
	done   chan struct{}
}

type record struct {
	Reader    string       `json:"reader"`
	Topic     string       `json:"topic"`
	Partition int32        `json:"partition"`
	Offset    int64        `json:"offset"`
	Timestamp int64        `json:"timestamp"`
	Key       *string      `json:"key"`
	Value     *string      `json:"value"`
	Headers   [][2]*string `json:"headers"`
}

var output sync.Mutex

func main() {
	var waiting sync.WaitGroup
	failed := false
	for _, each := range strings.Split(strings.Join(os.Args[1:], "\x00"), "\x00and\x00") {
		options := options{}
		for _, word := range strings.Split(each, "\x00") {
			key, value, _ := strings.Cut(word, "=")
			options[key] = value
		}
		waiting.Add(1)
		go func() {
			defer waiting.Done()
			if err := run(options); err != nil {
				fmt.Fprintf(os.Stderr, "%s: %v\n", options["name"], err)
				failed = true
			}
		}()
	}
	waiting.Wait()
	if failed {
		os.Exit(1)
	}
}

func run(options options) error {
	switch options["client"] {
	case "franz":
		return readWithFranz(newReader(options))
	case "sarama":
		return readWithSarama(newReader(options))
	case "franz-producer":
		return meetMirror(options, franzProducer)
	case "sarama-producer":
		return meetMirror(options, saramaProducer)
	case "franz-group":
		return playGroup(options, joinWithFranz)
	case "sarama-group":
		return playGroup(options, joinWithSarama)
	}
	return fmt.Errorf("no client %q", options["client"])
}

func newReader(options options) *reader {
	pace, _ := strconv.Atoi(options["pace"])
	return &reader{
		options: options,
		topics:  strings.Split(options["topics"], ","),
		pace:    time.Duration(pace) * time.Millisecond,
		ended:   map[string]bool{},
		done:    make(chan struct{}),
	}
}

// Prints a record; at the last "end" the reader is done.
func (r *reader) take(topic string, partition int32, offset int64, at time.Time, key, value []byte, headers [][2]*string) {
	// One at a time, as in clients that read all partitions in one loop.
	r.lock.Lock()
	defer r.lock.Unlock()
	time.Sleep(r.pace)
	if headers == nil {
		headers = [][2]*string{}
	}
	line, _ := json.Marshal(record{
		r.options["name"], topic, partition, offset, at.UnixMilli(), text(key), text(value), headers,
	})
	output.Lock()
	fmt.Println(string(line))
	output.Unlock()
	if string(value) != "end" {
		return
	}
	r.ended[fmt.Sprintf("%s-%d", topic, partition)] = true
	if count, _ := strconv.Atoi(r.options["partitions"]); len(r.ended) == count {
		close(r.done)
	}
}

func text(content []byte) *string {
	if content == nil {
		return nil
	}
	shown := hex.EncodeToString(content)
	return &shown
}
