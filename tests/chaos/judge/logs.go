package main

import (
	"os"
	"path/filepath"

	"go.uber.org/zap"
	"google.golang.org/protobuf/proto"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/storage/datadir"
	"go.etcd.io/etcd/server/v3/storage/wal"
	"go.etcd.io/etcd/tests/v3/robustness/model"
	"go.etcd.io/etcd/tests/v3/robustness/report"
	"go.etcd.io/raft/v3/raftpb"
)

// readLogs returns what the members of a report agreed upon, in order.
//
// etcd before 3.6 also logs requests of its v2 API, to publish its members, and knows
// them by not being an InternalRaftRequest. At some of those the validator gives up
// ("cannot parse invalid wire-format data"), so it gets copies of the logs without them.
func readLogs(logger *zap.Logger, path string) ([]model.EtcdRequest, error) {
	folders, err := filepath.Glob(filepath.Join(path, "server-*"))
	if err != nil {
		return nil, err
	}
	copies, err := os.MkdirTemp("", "judge-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(copies)
	for _, folder := range folders {
		err := copyLog(logger, folder, filepath.Join(copies, filepath.Base(folder)))
		if err != nil {
			return nil, err
		}
	}
	return report.LoadClusterPersistedRequests(logger, copies)
}

func copyLog(logger *zap.Logger, from, to string) error {
	state, entries, err := report.ReadWAL(logger, from)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		isNormal := entry.GetType() == raftpb.EntryNormal
		if isNormal && proto.Unmarshal(entry.Data, &etcdserverpb.InternalRaftRequest{}) != nil {
			entry.Data = nil
		}
	}
	log, err := wal.Create(logger, datadir.ToWALDir(to), nil)
	if err != nil {
		return err
	}
	defer log.Close()
	return log.Save(state, entries)
}
