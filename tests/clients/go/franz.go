package main

import (
	"context"

	"github.com/twmb/franz-go/pkg/kgo"
)

func readWithFranz(r *reader) error {
	settings := []kgo.Opt{
		kgo.SeedBrokers(splitComma(r.options["bootstrap"])...),
		kgo.ClientID(r.options["name"]),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()),
		kgo.ConsumeTopics(r.topics...),
		kgo.FetchMaxPartitionBytes(16384),
		kgo.MaxConcurrentFetches(1),
	}
	if r.options["isolation"] == "read_committed" {
		settings = append(settings, kgo.FetchIsolationLevel(kgo.ReadCommitted()))
	}
	if r.options["mode"] != "assign" {
		settings = append(settings, kgo.ConsumerGroup(r.options["name"]), kgo.DisableAutoCommit())
	}
	client, err := kgo.NewClient(settings...)
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-r.done; cancel() }()
	for ctx.Err() == nil {
		fetches := client.PollRecords(ctx, 50)
		fetches.EachRecord(func(each *kgo.Record) {
			var headers [][2]*string
			for _, header := range each.Headers {
				name := header.Key
				headers = append(headers, [2]*string{&name, text(header.Value)})
			}
			r.take(each.Topic, each.Partition, each.Offset, each.Timestamp, each.Key, each.Value, headers)
		})
		for _, failed := range fetches.Errors() {
			if ctx.Err() == nil {
				return failed.Err
			}
		}
	}
	return nil
}
