package main

import (
	"context"
	"strings"

	"github.com/IBM/sarama"
)

func splitComma(list string) []string { return strings.Split(list, ",") }

func readWithSarama(r *reader) error {
	settings := sarama.NewConfig()
	settings.ClientID = r.options["name"]
	if r.options["version"] != "" {
		version, err := sarama.ParseKafkaVersion(r.options["version"])
		if err != nil {
			return err
		}
		settings.Version = version
	}
	settings.Consumer.Offsets.Initial = sarama.OffsetOldest
	settings.Consumer.Offsets.AutoCommit.Enable = false
	settings.Consumer.Fetch.Default = 16384
	settings.ChannelBufferSize = 10
	if r.options["isolation"] == "read_committed" {
		settings.Consumer.IsolationLevel = sarama.ReadCommitted
	}
	if r.options["mode"] == "assign" {
		return assignSarama(r, settings)
	}
	group, err := sarama.NewConsumerGroup(splitComma(r.options["bootstrap"]), r.options["name"], settings)
	if err != nil {
		return err
	}
	defer group.Close()
	ctx, cancel := context.WithCancel(context.Background())
	go func() { <-r.done; cancel() }()
	for ctx.Err() == nil {
		if err := group.Consume(ctx, r.topics, claims{r}); err != nil && ctx.Err() == nil {
			return err
		}
	}
	return nil
}

func assignSarama(r *reader, settings *sarama.Config) error {
	consumer, err := sarama.NewConsumer(splitComma(r.options["bootstrap"]), settings)
	if err != nil {
		return err
	}
	defer consumer.Close()
	for _, topic := range r.topics {
		partitions, err := consumer.Partitions(topic)
		if err != nil {
			return err
		}
		for _, partition := range partitions {
			read, err := consumer.ConsumePartition(topic, partition, sarama.OffsetOldest)
			if err != nil {
				return err
			}
			defer read.Close()
			go func() {
				for message := range read.Messages() {
					takeSarama(r, message)
				}
			}()
		}
	}
	<-r.done
	return nil
}

type claims struct{ *reader }

func (claims) Setup(sarama.ConsumerGroupSession) error   { return nil }
func (claims) Cleanup(sarama.ConsumerGroupSession) error { return nil }
func (c claims) ConsumeClaim(session sarama.ConsumerGroupSession, claim sarama.ConsumerGroupClaim) error {
	for {
		select {
		case message, more := <-claim.Messages():
			if !more {
				return nil
			}
			takeSarama(c.reader, message)
		case <-session.Context().Done():
			return nil
		}
	}
}

func takeSarama(r *reader, message *sarama.ConsumerMessage) {
	var headers [][2]*string
	for _, header := range message.Headers {
		name := string(header.Key)
		headers = append(headers, [2]*string{&name, text(header.Value)})
	}
	r.take(message.Topic, message.Partition, message.Offset, message.Timestamp, message.Key, message.Value, headers)
}
