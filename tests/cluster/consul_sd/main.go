// Runs the Consul discovery of Prometheus itself, as it is released, and prints what it finds: one line of JSON for each
// group of targets that it sends to its scraper. Debian's Prometheus is built without this discovery.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/prometheus/discovery"
	"github.com/prometheus/prometheus/discovery/consul"
	"github.com/prometheus/prometheus/discovery/targetgroup"
	"gopkg.in/yaml.v2"
)

func main() {
	var config consul.SDConfig
	if err := yaml.UnmarshalStrict([]byte(os.Args[1]), &config); err != nil {
		panic(err)
	}
	registry := prometheus.NewRegistry()
	metrics := config.NewDiscovererMetrics(registry, discovery.NewRefreshMetrics(registry))
	if err := metrics.Register(); err != nil {
		panic(err)
	}
	logger := slog.New(slog.NewTextHandler(os.Stderr, nil))
	found, err := config.NewDiscoverer(discovery.DiscovererOptions{Logger: logger, Metrics: metrics, SetName: "test"})
	if err != nil {
		panic(err)
	}
	updates := make(chan []*targetgroup.Group)
	go found.Run(context.Background(), updates)
	for groups := range updates {
		for _, group := range groups {
			line, _ := json.Marshal(map[string]any{"source": group.Source, "targets": group.Targets, "labels": group.Labels})
			fmt.Println(string(line))
		}
	}
}
