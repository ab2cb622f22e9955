package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/IBM/sarama"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
)

// A producer as the meeting with a mirror needs it.
type producer struct {
	begin, abort, commit func() error
	send                 func(topic string) error
}

var kinds = []string{"plain", "idempotent", "transactional", "unacknowledged"}

// Producers of every kind meet a mirror and go on with another topic.
func meetMirror(options options, connect func(options options, kind string) (*producer, error)) error {
	for _, kind := range kinds {
		producer, err := connect(options, kind)
		if err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
		if kind != "transactional" {
			if err := producer.send(options["other"]); err != nil {
				return fmt.Errorf("%s: %w", kind, err)
			}
		}
		started := time.Now()
		if kind == "transactional" {
			if err := producer.begin(); err != nil {
				return err
			}
		}
		refused := producer.send(options["mirror"])
		milliseconds := time.Since(started).Milliseconds()
		name, message, after := "", "", ""
		if refused != nil {
			message = refused.Error()
			name = fmt.Sprintf("%T", refused)
			var known *kerr.Error
			if errors.As(refused, &known) {
				name = known.Message
			}
		}
		if err := goOn(options, kind, producer); err != nil {
			after = err.Error()
		}
		line, _ := json.Marshal(map[string]any{
			"kind": kind, "error": name, "message": message, "milliseconds": milliseconds, "after": after,
		})
		fmt.Println(string(line))
	}
	return nil
}

func goOn(options options, kind string, producer *producer) error {
	if kind == "transactional" {
		if err := producer.abort(); err != nil {
			return err
		}
		if err := producer.begin(); err != nil {
			return err
		}
	}
	for range 3 {
		if err := producer.send(options["other"]); err != nil {
			return err
		}
	}
	if kind == "transactional" {
		return producer.commit()
	}
	return nil
}

func franzProducer(options options, kind string) (*producer, error) {
	settings := []kgo.Opt{
		kgo.SeedBrokers(splitComma(options["bootstrap"])...),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
	}
	switch kind {
	case "plain":
		settings = append(settings, kgo.DisableIdempotentWrite())
	case "unacknowledged":
		settings = append(settings, kgo.DisableIdempotentWrite(), kgo.RequiredAcks(kgo.NoAck()))
	case "transactional":
		settings = append(settings, kgo.TransactionalID("franz-refused"))
	}
	client, err := kgo.NewClient(settings...)
	if err != nil {
		return nil, err
	}
	background := context.Background()
	return &producer{
		begin:  client.BeginTransaction,
		abort:  func() error { return client.EndTransaction(background, kgo.TryAbort) },
		commit: func() error { return client.EndTransaction(background, kgo.TryCommit) },
		send: func(topic string) error {
			return client.ProduceSync(background, &kgo.Record{Topic: topic, Value: []byte("a record")}).FirstErr()
		},
	}, nil
}

func saramaProducer(options options, kind string) (*producer, error) {
	settings := sarama.NewConfig()
	settings.Producer.Return.Successes = true
	settings.Producer.Partitioner = sarama.NewManualPartitioner
	switch kind {
	case "idempotent", "transactional":
		settings.Producer.Idempotent = true
		settings.Producer.RequiredAcks = sarama.WaitForAll
		settings.Net.MaxOpenRequests = 1
	case "unacknowledged":
		settings.Producer.RequiredAcks = sarama.NoResponse
	}
	if kind == "transactional" {
		settings.Producer.Transaction.ID = "sarama-refused"
	}
	connected, err := sarama.NewSyncProducer(splitComma(options["bootstrap"]), settings)
	if err != nil {
		return nil, err
	}
	return &producer{
		begin:  connected.BeginTxn,
		abort:  connected.AbortTxn,
		commit: connected.CommitTxn,
		send: func(topic string) error {
			_, _, err := connected.SendMessage(&sarama.ProducerMessage{Topic: topic, Value: sarama.StringEncoder("a record")})
			return err
		},
	}, nil
}
