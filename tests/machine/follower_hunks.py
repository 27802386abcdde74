"""Mutations of the follower, read by `follower_mutations`: rule, line, replacement."""

FOLLOWER = """
goes_on: it is read again
-                except (CompactedError, FutureRevisionError) as exc:
+                except CompactedError as exc:

goes_on: it is read again
-                except (CompactedError, FutureRevisionError) as exc:
+                except FutureRevisionError as exc:

read_again_if_in_doubt: it is read again, and says so
-                self._warn("a mirror is read again: %s", printable(why))
+                pass

paced: it pauses
-                await trio.sleep(waits.send(lasted))
+                await trio.sleep(0)

paced: it pauses ever longer
-                await trio.sleep(waits.send(lasted))
+                await trio.sleep(waits.send(True))

paced: it pauses briefly after a watch that lasted
-                await trio.sleep(waits.send(lasted))
+                await trio.sleep(waits.send(False))

paced: a slow read is not a watch that lasted
-                lasted = False
+                lasted = True

ends_in_the_error: an error that a relist cannot repair ends it
-        except (WatchError, trio.ClosedResourceError) as exc:
+        except WatchError as exc:

ends_in_the_error: an error that a relist cannot repair ends it
-        except (WatchError, trio.ClosedResourceError) as exc:
+        except trio.ClosedResourceError as exc:

ends_in_the_error: an error that a relist cannot repair ends it
-            self.failure = exc
+            pass

ends_in_the_error: an error that a relist cannot repair ends it
-            ended()
+            pass

proof: it is proved where the watch has caught up
-            await self._proof_wanted.wait()
+            await trio.sleep(5)

proof: it is proved once after each creation
-            self._proof_wanted = trio.Event()
+            pass

proof: it is proved at a revision that was received whole
-                await self.sync()
+                pass

proof: it is proved
-                await self.verify()
+                pass

read_again_if_in_doubt: what cannot be proved is read again
-                self._distrust(str(exc))
+                pass

read_again_if_in_doubt: what cannot be proved is read again
-            except WatchError as exc:
+            except ClusterChangedError as exc:

closed_when_left: a closed watcher ends both tasks
-            except trio.ClosedResourceError:
+            except trio.BrokenResourceError:

one_history: a read is of the known cluster
-            _check_cluster(self._header, snapshot.header)
+            pass

one_history: a read may be of a lower term
-        self._header = snapshot.header
+        self._header = self._header or snapshot.header

read_again_if_in_doubt: a relist is counted
-        self.resyncs += 1
+        pass

read_again_if_in_doubt: consumers are notified of a relist at once
-            self._warn("a mirror differed in %d keys, such as %s", len(changed), key)
+            return

watch_continues: a watch begins after the revision of the read
-                start = self.replica.revision + 1
+                start = self.replica.revision

watch_continues: a watch begins after the revision of the read
-                start = self.replica.revision + 1
+                start = self.replica.revision + 2

says_since_when: statistics are of the present watch
-                    self._watch = watch
+                    pass

ends_in_the_error: denial is no reason to read again
-        except PermissionDeniedError:
+        except ZeroDivisionError:

read_again_if_in_doubt: a divergence is a reason to read again
-        except (Diverged, WatchCanceledError, HistoryLostError) as exc:
+        except (WatchCanceledError, HistoryLostError) as exc:

goes_on: a cancel is a reason to read again
-        except (Diverged, WatchCanceledError, HistoryLostError) as exc:
+        except (Diverged, CompactedError, HistoryLostError) as exc:

goes_on: a lost history is a reason to read again
-        except (Diverged, WatchCanceledError, HistoryLostError) as exc:
+        except (Diverged, WatchCanceledError) as exc:

says_since_when: it is disconnected since its stream was lost
-            self._unwatched_since = trio.current_time() if since is None else since
+            self._unwatched_since = trio.current_time()

says_since_when: it is disconnected since its watch ended
-            self._unwatched_since = trio.current_time() if since is None else since
+            self._unwatched_since = self._unwatched_since if since is None else since

says_since_when: without a watch it is disconnected
-            self._watching = self._watch = None
+            self._watching = None

read_again_if_in_doubt: a doubt is reported
-        return self._doubt
+        return ""

one_history: a response is of the known cluster
-        _check_cluster(known, header)
+        pass

made_up_headers_ignored: a header that a proxy made up is ignored
-        if not header.cluster_id:
+        if False:

made_up_headers_ignored: a header that a proxy made up shows no other cluster
-    if known.cluster_id and now.cluster_id and known.cluster_id != now.cluster_id:
+    if known.cluster_id != now.cluster_id:

one_history: the raft term does not fall
-        _check_term(known, header)
+        pass

one_history: the raft term may stay
-    if now.raft_term < known.raft_term:
+    if now.raft_term <= known.raft_term:

one_history: the raft term does not fall below the newest
-        self._header = header
+        pass

proof: a creation that is behind needs a proof
-        if response.created and header.revision != self.replica.revision:
+        if response.created and header.revision > self.replica.revision:

proof: a creation with history to catch up needs a proof
-        if response.created and header.revision != self.replica.revision:
+        if False:

proof: a creation without history needs none
-        if response.created and header.revision != self.replica.revision:
+        if response.created:

proof: a creation with history to catch up needs a proof
-        if response.created and header.revision != self.replica.revision:
+        if response.created and header.revision < self.replica.revision:

proof: events need no proof
-        if response.created and header.revision != self.replica.revision:
+        if header.revision != self.replica.revision:

proof: a creation with history to catch up needs a proof
-            self._proof_wanted.set()
+            pass

equal: events move the mapping
-        self.replica.apply(response.events)
+        pass

equal: what was delivered moves the revision
-        self.replica.progressed(watch.next_revision - 1)
+        pass

equal: what was delivered moves the revision
-        self.replica.progressed(watch.next_revision - 1)
+        self.replica.progressed(watch.next_revision)

equal: headers do not move the revision
-        self.replica.progressed(watch.next_revision - 1)
+        self.replica.progressed(header.revision)

entered_when_watched: it is ready once its watch is created
-        self.ready.set()
+        pass

state_to_state: consumers are notified of a response
-        self.ready.set()
+        self.ready.set()
+        return

read_again_if_in_doubt: the first doubt is the reason
-        if self._watching is not None and not self._watching.cancel_called:
+        if self._watching is not None:

read_again_if_in_doubt: a doubt is reported
-            self._doubt = why
+            pass

read_again_if_in_doubt: a doubt ends the watch
-            self._watching.cancel(reason=why)
+            pass

quiet_log: its lines are bounded
-        if self._lines.take(trio.current_time()):
+        if True:

own_writes: another read after one that may have begun before
-        while not await self._sync_once():
+        if not await self._sync_once():

check: a count does not detect a put
-        check = await self._check(count_request(self._keys), counted=True)
+        check = await self._check(count_request(self._keys), counted=False)

own_writes: events that come in time are enough
-        with trio.move_on_after(HURRY):
+        with trio.move_on_after(0):

own_writes: without events another read follows soon
-        with trio.move_on_after(HURRY):
+        with trio.move_on_after(PATIENCE):

own_writes: after a relist no other read follows
-        if self.resyncs == resyncs:
+        if True:

own_writes: without events another read follows
-        if self.resyncs == resyncs:
+        if False:

check: the second read is of what is new
-            request = newest_request(self._keys, self.replica.revision)
+            request = newest_request(self._keys, 0)

check: the second read is of all that is new
-            request = newest_request(self._keys, self.replica.revision)
+            request = newest_request(self._keys, self.replica.revision + 1)

check: a second read settles
-            check = await self._check(request, counted=False)
+            check = await self._check(request, counted=True)

own_writes: a silent living watch is given up
-            with trio.move_on_at(min(now + PATIENCE, since + MAX_PATIENCE)) as scope:
+            with trio.CancelScope() as scope:

own_writes: a silent living watch is given up in time
-            with trio.move_on_at(min(now + PATIENCE, since + MAX_PATIENCE)) as scope:
+            with trio.move_on_at(min(now + 2 * PATIENCE, since + MAX_PATIENCE)) as scope:

own_writes: a watch gets some time
-            with trio.move_on_at(min(now + PATIENCE, since + MAX_PATIENCE)) as scope:
+            with trio.move_on_at(min(now + PATIENCE / 2, since + MAX_PATIENCE)) as scope:

own_writes: a watch that was just created gets more time
-            with trio.move_on_at(min(now + PATIENCE, since + MAX_PATIENCE)) as scope:
+            with trio.move_on_at(since + PATIENCE) as scope:

own_writes: a watch that flaps is given up
-            with trio.move_on_at(min(now + PATIENCE, since + MAX_PATIENCE)) as scope:
+            with trio.move_on_at(now + PATIENCE) as scope:

own_writes: a watch that delivers something is not given up
-            if scope.cancelled_caught:
+            if True:

own_writes: a watch that flaps is given up
-            if self.replica.revision > revision:
+            if True:

own_writes: a dead watch is not given up
-                if self._is_living():
+                if True:

one_history: a reply of another cluster proves nothing
-        return check if self._continues(known, check.header) else None
+        return check

one_history: a read is of the known cluster
-            _check_cluster(known, header)
+            pass

one_history: a read of a lower term is a lost history
-            _check_term(known, header)
+            pass

one_history: what is read of another history is read again
-        except (ClusterChangedError, Diverged) as exc:
+        except (ClusterChangedError, Diverged) as exc:
+            return False

one_history: a read is compared with what was known before it
-        check = await self._reads.ask(request, accept)
+        check, known = await self._reads.ask(request, accept), self.header

one_history: the newest header is the one that answered
-        if settled and behind:
+        if False:

own_writes: an answer that was overtaken is not
-        if settled and behind:
+        if settled:

one_history: a reply of another cluster proves nothing
-            if not self._continues(known, read.answered):
+            if False:

one_history: a read is compared with what was known before it
-            if not self._continues(known, read.answered):
+            if not self._continues(self.header, read.answered):

own_writes: a silent living watch is given up
-                    self._distrust("the watch did not deliver what a read shows")
+                    pass

lost_history_found: a read finds a lost history
-            check_of, since=self.replica.revision, counted=counted
+            check_of, since=0, counted=counted

own_writes: a watch that is being created is not given up
-        return self._watch is not None and self._watch.statistics().state == "live"
+        return self._watch is not None

check: a check may settle
-            settled = self.replica.settle(check)
+            settled = False

lost_history_found: a read finds a lost history
-        except Diverged as exc:
+        except Diverged as exc:
+            return False

proof: what is compacted is proved later
-        for _ in range(MAX_PROOFS):
+        for _ in range(1):

proof: the number of tries is bounded
-        for _ in range(MAX_PROOFS):
+        for _ in range(2 * MAX_PROOFS):

proof: without a result it is not right
-            if right:
+            if right is not False:

proof: without a result it is not wrong
-            if right is False:
+            if not right:

proof_of_its_revision: at a newer revision
-            await self.sync()
+            pass

read_again_if_in_doubt: what is always compacted is read again
-            self._distrust("the revision of the proof was compacted several times")
+            pass

read_again_if_in_doubt: what is wrong is repaired on return
-                break
+                return False

proof_of_its_revision: at the revision of the mapping
-            revision=proof.revision,
+            revision=0,

proof: without values
-            keys_only=True,
+            keys_only=False,

proof: only of what is not proved yet
-            above=proof.since,
+            above=0,

proof: in one page
-            first_page=MAX_KEYS,
+            first_page=1000,

proof_of_its_revision: a proof from before a relist proves nothing
-            return self.replica.prove(proof, read.data, read.count) or None
+            return self.replica.prove(proof, read.data, read.count)

proof: compares
-            return self.replica.prove(proof, read.data, read.count) or None
+            return True

proof: what is compacted is proved later
-        except CompactedError:
+        except CompactedError:
+            return True

read_again_if_in_doubt: what is wrong is read again
-        except (ClusterChangedError, Diverged, FutureRevisionError) as exc:
+        except (ClusterChangedError, Diverged, FutureRevisionError) as exc:
+            return False

lost_history_found: a proof of the future is a lost history
-        except (ClusterChangedError, Diverged, FutureRevisionError) as exc:
+        except (ClusterChangedError, Diverged) as exc:
"""
