// Client with clientv3, etcd's Go client. It does the same jobs as
// benchmarks/client_*.py, with the same arguments and reports: see
// benchmarks/metering.py.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"log"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
)

const prefix = "/config/"

var (
	task          = flag.String("task", "replay", "replay, latency, resume or memory")
	endpoint      = flag.String("endpoint", "", "host:port")
	watches       = flag.Int("watches", 1, "how many to open")
	expected      = flag.Int64("events", 0, "how many to wait for, over all watches")
	startRevision = flag.Int64("start-revision", 0, "0 is from now")
)

func main() {
	flag.Parse()
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{*endpoint}})
	if err != nil {
		log.Fatal(err)
	}
	switch *task {
	case "resume":
		resume(client)
	case "memory":
		hold(client)
	default:
		replay(client)
	}
}

func open(client *clientv3.Client, count int) []clientv3.WatchChan {
	channels := make([]clientv3.WatchChan, count)
	for i := range channels {
		channels[i] = client.Watch(context.Background(), prefix,
			clientv3.WithPrefix(), clientv3.WithRev(*startRevision))
	}
	return channels
}

// meter counts events, and the time from the first to the last of them.
type meter struct {
	begin     sync.Once
	began     time.Time
	cpuBegan  time.Duration
	events    int64
	responses int64
	checksum  int64
	ages      []float64
}

// add counts the events of one response; it returns whether all have arrived.
func (m *meter) add(events []*clientv3.Event) bool {
	m.begin.Do(func() { m.began, m.cpuBegan = time.Now(), cpu() })
	if *task == "latency" {
		now := time.Now().UnixNano()
		for _, event := range events {
			written, err := strconv.ParseInt(string(event.Kv.Value), 10, 64)
			if err != nil {
				log.Fatal(err)
			}
			m.ages = append(m.ages, float64(now-written)/1e9)
		}
	}
	var total int64
	for _, event := range events {
		kv := event.Kv
		total += int64(len(kv.Key)) + int64(len(kv.Value)) + kv.ModRevision
	}
	atomic.AddInt64(&m.checksum, total)
	atomic.AddInt64(&m.responses, 1)
	return atomic.AddInt64(&m.events, int64(len(events))) >= *expected
}

// replay reads until all events have arrived, with a goroutine for each watch.
func replay(client *clientv3.Client) {
	m := &meter{}
	done := make(chan struct{}, *watches)
	for _, channel := range open(client, *watches) {
		go func(channel clientv3.WatchChan) {
			for response := range channel {
				if m.add(response.Events) {
					done <- struct{}{}
				}
			}
		}(channel)
	}
	<-done
	spent, wall := cpu()-m.cpuBegan, time.Since(m.began)
	report(map[string]interface{}{
		"events": m.events, "responses": m.responses, "checksum": m.checksum,
		"wall": wall.Seconds(), "cpu": spent.Seconds(),
		"maxrss": usage().Maxrss * 1024, "latencies": m.ages, // null except for latency
	})
}

// resume reports when all watches are open, and when each has had an event.
func resume(client *clientv3.Client) {
	began := time.Now()
	channels := open(client, *watches)
	report(map[string]interface{}{"opened_in": time.Since(began).Seconds()})
	for _, channel := range channels {
		<-channel
	}
	now := float64(time.Now().UnixNano()) / 1e9
	report(map[string]interface{}{"resumed_at": now})
}

// hold reports the memory of watches, without the first one and the connection.
func hold(client *clientv3.Client) {
	channels := open(client, 1)
	before := residentSize()
	channels = append(channels, open(client, *watches-1)...)
	grown := float64(residentSize() - before)
	report(map[string]interface{}{"bytes_per_watch": grown / float64(*watches-1)})
	runtime.KeepAlive(channels)
}

func residentSize() int {
	debug.FreeOSMemory()
	statm, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		log.Fatal(err)
	}
	pages, err := strconv.Atoi(strings.Fields(string(statm))[1])
	if err != nil {
		log.Fatal(err)
	}
	return pages * os.Getpagesize()
}

func usage() syscall.Rusage {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		log.Fatal(err)
	}
	return usage
}

func cpu() time.Duration {
	spent := usage()
	return time.Duration(spent.Utime.Nano() + spent.Stime.Nano())
}

func report(results map[string]interface{}) {
	if err := json.NewEncoder(os.Stdout).Encode(results); err != nil {
		log.Fatal(err)
	}
}
