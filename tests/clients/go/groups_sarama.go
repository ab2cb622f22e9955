package main

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/IBM/sarama"
)

type saramaMember struct {
	options options
	group   string
	client  sarama.Client
	joined  sarama.ConsumerGroup
	cancel  context.CancelFunc
	done    chan error
	records chan *sarama.ConsumerMessage
	// Where to begin, in place of what is committed.
	begin map[place]int64
	// Claims whose first offset is known.
	placed atomic.Int32
	lock   sync.Mutex
	// The present one, if any.
	session sarama.ConsumerGroupSession
}

func joinWithSarama(options options, group, reset string) (member, error) {
	settings := sarama.NewConfig()
	settings.Consumer.Offsets.Initial = sarama.OffsetNewest
	if reset == "earliest" {
		settings.Consumer.Offsets.Initial = sarama.OffsetOldest
	}
	settings.Consumer.Offsets.AutoCommit.Enable = false
	settings.Consumer.IsolationLevel = sarama.ReadCommitted
	settings.Consumer.Group.Heartbeat.Interval = 500 * time.Millisecond
	client, err := sarama.NewClient(splitComma(options["bootstrap"]), settings)
	if err != nil {
		return nil, err
	}
	m := &saramaMember{options: options, group: group, client: client}
	return m, m.join(nil)
}

func (m *saramaMember) join(begin map[place]int64) error {
	joined, err := sarama.NewConsumerGroupFromClient(m.group, m.client)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	m.joined, m.cancel, m.begin = joined, cancel, begin
	m.done, m.records = make(chan error, 1), make(chan *sarama.ConsumerMessage)
	go func() {
		for ctx.Err() == nil {
			if err := joined.Consume(ctx, splitComma(m.options["topics"]), m); err != nil && ctx.Err() == nil {
				m.done <- err
				return
			}
		}
		m.done <- nil
	}()
	return nil
}

func (m *saramaMember) Setup(session sarama.ConsumerGroupSession) error {
	m.lock.Lock()
	defer m.lock.Unlock()
	m.session = session
	m.placed.Store(0)
	for at, offset := range m.begin {
		session.ResetOffset(at.topic, at.partition, offset, "")
	}
	m.begin = nil
	return nil
}

func (m *saramaMember) Cleanup(session sarama.ConsumerGroupSession) error {
	session.Commit()
	m.lock.Lock()
	defer m.lock.Unlock()
	m.session = nil
	return nil
}

func (m *saramaMember) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	m.placed.Add(1)
	for {
		select {
		case message, more := <-claim.Messages():
			if !more {
				return nil
			}
			select {
			case m.records <- message:
				session.MarkMessage(message, "")
			case <-session.Context().Done():
				return nil
			}
		case <-session.Context().Done():
			return nil
		}
	}
}

func (m *saramaMember) poll() ([]taken, error) {
	var records []taken
	wait := time.After(50 * time.Millisecond)
	for len(records) < 10 {
		select {
		case each := <-m.records:
			at := place{each.Topic, each.Partition}
			records = append(records, taken{at, each.Offset, each.Timestamp, each.Value})
		case err := <-m.done:
			return nil, fmt.Errorf("the group ended: %w", err)
		case <-wait:
			return records, nil
		}
	}
	return records, nil
}

func (m *saramaMember) assigned() int {
	m.lock.Lock()
	defer m.lock.Unlock()
	count := 0
	if m.session != nil {
		for _, partitions := range m.session.Claims() {
			count += len(partitions)
		}
	}
	return count
}

func (m *saramaMember) isPlaced(count int) bool {
	return m.assigned() == count && int(m.placed.Load()) == count
}

func (m *saramaMember) commit() error {
	m.lock.Lock()
	defer m.lock.Unlock()
	if m.session != nil {
		m.session.Commit()
	}
	return nil
}

func (m *saramaMember) committed() (map[place]committed, error) {
	partitions, err := m.partitions()
	if err != nil {
		return nil, err
	}
	admin, err := sarama.NewClusterAdminFromClient(m.client)
	if err != nil {
		return nil, err
	}
	found, err := admin.ListConsumerGroupOffsets(m.group, partitions)
	if err != nil {
		return nil, err
	}
	all := map[place]committed{}
	for topic, blocks := range found.Blocks {
		for partition, block := range blocks {
			all[place{topic, partition}] = committed{block.Offset, block.LeaderEpoch >= 0}
		}
	}
	return all, nil
}

func (m *saramaMember) partitions() (map[string][]int32, error) {
	all := map[string][]int32{}
	for _, topic := range splitComma(m.options["topics"]) {
		partitions, err := m.client.Partitions(topic)
		if err != nil {
			return nil, err
		}
		all[topic] = partitions
	}
	return all, nil
}

func (m *saramaMember) byTime(at time.Time) (map[place]int64, error) {
	partitions, err := m.partitions()
	if err != nil {
		return nil, err
	}
	all := map[place]int64{}
	for topic, numbers := range partitions {
		for _, number := range numbers {
			offset, err := m.client.GetOffset(topic, number, at.UnixMilli())
			if err != nil {
				return nil, err
			}
			all[place{topic, number}] = offset
		}
	}
	return all, nil
}

// Begins a session anew: offsets can be set at its start alone.
func (m *saramaMember) seek(to map[place]int64) error {
	if err := m.leave(); err != nil {
		return err
	}
	return m.join(to)
}

func (m *saramaMember) leave() error {
	m.cancel()
	if err := <-m.done; err != nil {
		return err
	}
	return m.joined.Close()
}

func (m *saramaMember) close() error {
	if err := m.leave(); err != nil {
		return err
	}
	return m.client.Close()
}
