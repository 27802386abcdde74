// Judge holds a report of watches and KV operations against the members' logs, with
// the validator of etcd's own robustness suite.
//
//	judge [-timeout 5m] REPORT
//
// It ends with 0 if every guarantee holds, with 1 if one is broken or could not be
// judged, and with 2 if the report can't be read.
package main

import (
	"flag"
	"fmt"
	"os"
	"time"

	"github.com/anishathalye/porcupine"
	"go.uber.org/zap"

	"go.etcd.io/etcd/tests/v3/robustness/model"
	"go.etcd.io/etcd/tests/v3/robustness/report"
	"go.etcd.io/etcd/tests/v3/robustness/validate"
)

func main() {
	timeout := flag.Duration("timeout", 5*time.Minute, "for the check of linearizability")
	flag.Parse()
	if flag.NArg() != 1 {
		fail(fmt.Errorf("one folder of a report is needed, not %q", flag.Args()))
	}
	config := zap.NewDevelopmentConfig()
	config.Level.SetLevel(zap.ErrorLevel)
	config.DisableStacktrace = true
	logger, err := config.Build()
	if err != nil {
		fail(err)
	}
	path := flag.Arg(0)
	reports, err := report.LoadClientReports(path)
	if err != nil {
		fail(err)
	}
	persisted, err := readLogs(logger, path)
	if err != nil {
		fail(err)
	}
	dropLost(reports, persisted)
	// The validator prints what differs, and the verdicts are to come by themselves.
	verdictsTo := os.Stdout
	os.Stdout = os.Stderr
	result := validate.ValidateAndReturnVisualize(
		logger, validate.Config{}, reports, persisted, *timeout)
	verdicts := []struct {
		name   string
		result validate.Result
	}{
		{"assumptions", result.Assumptions},
		{"linearization", result.Linearization.Result},
		{"watch", result.Watch},
		{"serializable", result.Serializable},
	}
	broken := false
	for _, each := range verdicts {
		// What was not looked at counts as broken; the validator lets it pass.
		broken = broken || each.result.Status != validate.Success
		fmt.Fprintf(verdictsTo, "%s: %s\n", each.name, each.result)
	}
	if broken {
		os.Exit(1)
	}
}

// dropLost removes transactions that failed and of which no put is in the log.
//
// All values are unique, so they never happened. The validator finds that out by
// itself, unless the transaction also deletes a key that others delete: then it tries
// both for each of them, in time that is exponential in their number.
func dropLost(reports []report.ClientReport, persisted []model.EtcdRequest) {
	puts := map[model.PutOptions]bool{}
	for _, request := range persisted {
		for _, put := range putsOf(request) {
			puts[put] = true
		}
	}
	for i := range reports {
		kept := []porcupine.Operation{}
		for _, operation := range reports[i].KeyValue {
			tried := putsOf(operation.Input.(model.EtcdRequest))
			failed := operation.Output.(model.MaybeEtcdResponse).Error != ""
			if !failed || len(tried) == 0 || puts[tried[0]] {
				kept = append(kept, operation)
			}
		}
		reports[i].KeyValue = kept
	}
}

func putsOf(request model.EtcdRequest) []model.PutOptions {
	puts := []model.PutOptions{}
	if request.Type != model.Txn {
		return puts
	}
	for _, operation := range request.Txn.AllOperations() {
		if operation.Type == model.PutOperation {
			puts = append(puts, operation.Put)
		}
	}
	return puts
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "judge:", err)
	os.Exit(2)
}
