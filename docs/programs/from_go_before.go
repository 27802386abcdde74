// This program prints the present keys, and then each change, with clientv3.
package main

import (
	"context"
	"fmt"
	"log"

	clientv3 "go.etcd.io/etcd/client/v3"
)

func main() {
	client, err := clientv3.New(clientv3.Config{Endpoints: []string{"127.0.0.1:2379"}})
	if err != nil {
		log.Fatal(err)
	}
	defer client.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	state, err := client.Get(ctx, "/config/", clientv3.WithPrefix())
	if err != nil {
		log.Fatal(err)
	}
	for _, kv := range state.Kvs {
		fmt.Printf("%s is %s\n", kv.Key, kv.Value)
	}
	watch := client.Watch(ctx, "/config/", clientv3.WithPrefix(),
		clientv3.WithRev(state.Header.Revision+1))
	for response := range watch {
		if err := response.Err(); err != nil {
			log.Fatal(err)
		}
		for _, event := range response.Events {
			fmt.Println(event.Type, string(event.Kv.Key), string(event.Kv.Value))
		}
	}
}
