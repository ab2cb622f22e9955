package main

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

const (
	fetchKey       = 1
	listOffsetsKey = 2
)

type franzMember struct {
	client  *kgo.Client
	options options
	group   string
	// Partitions that it has.
	count atomic.Int32
	// An answer to ListOffsets has come, then one to Fetch.
	listed, fetched atomic.Bool
}

func joinWithFranz(options options, group, reset string) (member, error) {
	m := &franzMember{options: options, group: group}
	start := map[string]kgo.Offset{
		"earliest": kgo.NewOffset().AtStart(),
		"latest":   kgo.NewOffset().AtEnd(),
		"none":     kgo.NoResetOffset(),
	}[reset]
	add := func(sign int32) func(context.Context, *kgo.Client, map[string][]int32) {
		return func(ctx context.Context, client *kgo.Client, places map[string][]int32) {
			if sign < 0 {
				// What fails here is seen in what is read twice.
				_ = client.CommitUncommittedOffsets(ctx)
			}
			for _, partitions := range places {
				m.count.Add(sign * int32(len(partitions)))
			}
		}
	}
	settings := []kgo.Opt{
		kgo.SeedBrokers(splitComma(options["bootstrap"])...),
		kgo.ConsumerGroup(group),
		kgo.ConsumeTopics(splitComma(options["topics"])...),
		kgo.ConsumeResetOffset(start),
		kgo.FetchIsolationLevel(kgo.ReadCommitted()),
		kgo.FetchMaxWait(500 * time.Millisecond),
		kgo.DisableAutoCommit(),
		kgo.BlockRebalanceOnPoll(),
		kgo.OnPartitionsAssigned(add(1)),
		kgo.OnPartitionsRevoked(add(-1)),
		kgo.WithHooks(m),
	}
	if options["protocol"] == "consumer" {
		settings = append(settings, kgo.ServerSideBalancer(), kgo.Balancers(kgo.RangeBalancer()))
	} else {
		settings = append(settings, kgo.HeartbeatInterval(500*time.Millisecond))
	}
	client, err := kgo.NewClient(settings...)
	m.client = client
	return m, err
}

func (m *franzMember) OnBrokerE2E(_ kgo.BrokerMetadata, key int16, answer kgo.BrokerE2E) {
	switch {
	case answer.Err() != nil:
	case key == listOffsetsKey:
		m.listed.Store(true)
	case key == fetchKey && m.listed.Load():
		m.fetched.Store(true)
	}
}

func (m *franzMember) poll() ([]taken, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	fetches := m.client.PollRecords(ctx, 10)
	defer m.client.AllowRebalance()
	var records []taken
	fetches.EachRecord(func(each *kgo.Record) {
		at := place{each.Topic, each.Partition}
		records = append(records, taken{at, each.Offset, each.Timestamp, each.Value})
	})
	for _, failed := range fetches.Errors() {
		if !errors.Is(failed.Err, context.DeadlineExceeded) {
			return nil, failed.Err
		}
	}
	return records, nil
}

func (m *franzMember) assigned() int { return int(m.count.Load()) }

func (m *franzMember) isPlaced(count int) bool {
	return m.assigned() == count && m.fetched.Load()
}

func (m *franzMember) commit() error {
	return m.client.CommitUncommittedOffsets(context.Background())
}

func (m *franzMember) committed() (map[place]committed, error) {
	found, err := kadm.NewClient(m.client).FetchOffsets(context.Background(), m.group)
	if err != nil {
		return nil, err
	}
	all := map[place]committed{}
	found.Each(func(each kadm.OffsetResponse) {
		all[place{each.Topic, each.Partition}] = committed{each.At, each.LeaderEpoch >= 0}
	})
	return all, found.Error()
}

func (m *franzMember) byTime(at time.Time) (map[place]int64, error) {
	topics := splitComma(m.options["topics"])
	found, err := kadm.NewClient(m.client).ListOffsetsAfterMilli(context.Background(), at.UnixMilli(), topics...)
	if err != nil {
		return nil, err
	}
	all := map[place]int64{}
	found.Each(func(each kadm.ListedOffset) { all[place{each.Topic, each.Partition}] = each.Offset })
	return all, found.Error()
}

func (m *franzMember) seek(to map[place]int64) error {
	offsets := map[string]map[int32]kgo.EpochOffset{}
	for at, offset := range to {
		if offsets[at.topic] == nil {
			offsets[at.topic] = map[int32]kgo.EpochOffset{}
		}
		offsets[at.topic][at.partition] = kgo.EpochOffset{Epoch: -1, Offset: offset}
	}
	m.client.SetOffsets(offsets)
	return nil
}

func (m *franzMember) close() error {
	m.client.CloseAllowingRebalance()
	return nil
}
