"""What `follower_mutations` breaks in the follower: rule, line, and what is there instead."""

FOLLOWER = """
it is read anew
-                except (CompactedError, FutureRevisionError) as exc:
+                except CompactedError as exc:

it is read anew
-                except (CompactedError, FutureRevisionError) as exc:
+                except FutureRevisionError as exc:

it is read anew, and says so
-                self._warn("a mirror is read anew: %s", printable(why))
+                pass

it pauses
-                await trio.sleep(waits.send(lasted))
+                await trio.sleep(0)

it pauses ever longer
-                await trio.sleep(waits.send(lasted))
+                await trio.sleep(waits.send(True))

it pauses briefly after a watch that lasted
-                await trio.sleep(waits.send(lasted))
+                await trio.sleep(waits.send(False))

that a read takes long is no success
-                lasted = False
+                lasted = True

what cannot be mended ends it
-        except (WatchError, trio.ClosedResourceError) as exc:
+        except WatchError as exc:

what cannot be mended ends it
-        except (WatchError, trio.ClosedResourceError) as exc:
+        except trio.ClosedResourceError as exc:

what cannot be mended ends it
-            self.failure = exc
+            pass

what cannot be mended ends it
-            ended()
+            pass

it is proved where the watch has caught up
-            await self._proof_wanted.wait()
+            await trio.sleep(5)

it is proved once each time
-            self._proof_wanted = trio.Event()
+            pass

it is proved where all has come
-                await self.sync()
+                pass

it is proved
-                await self.verify()
+                pass

what cannot be proved is read anew
-                self._distrust(str(exc))
+                pass

what cannot be proved is read anew
-            except WatchError as exc:
+            except ClusterChangedError as exc:

a closed watcher ends both tasks
-            except trio.ClosedResourceError:
+            except trio.BrokenResourceError:

a read is of the known cluster
-            _check_cluster(self._header, snapshot.header)
+            pass

a read may be of a lower term
-        self._header = snapshot.header
+        self._header = self._header or snapshot.header

a read anew is counted
-        self.resyncs += 1
+        pass

a read anew is told at once
-            self._warn("a mirror was behind in %d keys, such as %s", len(changed), key)
+            return

a watch begins behind the read
-                start = self.replica.revision + 1
+                start = self.replica.revision

a watch begins behind the read
-                start = self.replica.revision + 1
+                start = self.replica.revision + 2

statistics are of the present watch
-                    self._watch = watch
+                    pass

denial is no reason to read anew
-        except PermissionDeniedError:
+        except ZeroDivisionError:

a divergence is a reason to read anew
-        except (Diverged, WatchCanceledError, HistoryLostError) as exc:
+        except (WatchCanceledError, HistoryLostError) as exc:

a cancel is a reason to read anew
-        except (Diverged, WatchCanceledError, HistoryLostError) as exc:
+        except (Diverged, CompactedError, HistoryLostError) as exc:

a lost history is a reason to read anew
-        except (Diverged, WatchCanceledError, HistoryLostError) as exc:
+        except (Diverged, WatchCanceledError) as exc:

it has been alone since its stream was lost
-            self._unwatched_since = trio.current_time() if since is None else since
+            self._unwatched_since = trio.current_time()

it has been alone since its watch ended
-            self._unwatched_since = trio.current_time() if since is None else since
+            self._unwatched_since = self._unwatched_since if since is None else since

without a watch it is alone
-            self._watching = self._watch = None
+            self._watching = None

a doubt is told
-        return self._doubt
+        return ""

a response is of the known cluster
-        _check_cluster(known, header)
+        pass

a header that a proxy made up tells nothing
-        if not header.cluster_id:
+        if False:

a header that a proxy made up is of no other cluster
-    if known.cluster_id and now.cluster_id and known.cluster_id != now.cluster_id:
+    if known.cluster_id != now.cluster_id:

the raft term does not fall
-        _check_term(known, header)
+        pass

the raft term may stay
-    if now.raft_term < known.raft_term:
+    if now.raft_term <= known.raft_term:

the raft term does not fall below the newest
-        self._header = header
+        pass

a creation that is behind wants a proof
-        if response.created and header.revision != self.replica.revision:
+        if response.created and header.revision > self.replica.revision:

a creation with history to catch up wants a proof
-        if response.created and header.revision != self.replica.revision:
+        if False:

a creation without history wants none
-        if response.created and header.revision != self.replica.revision:
+        if response.created:

a creation with history to catch up wants a proof
-        if response.created and header.revision != self.replica.revision:
+        if response.created and header.revision < self.replica.revision:

events want no proof
-        if response.created and header.revision != self.replica.revision:
+        if header.revision != self.replica.revision:

a creation with history to catch up wants a proof
-            self._proof_wanted.set()
+            pass

events move the mapping
-        self.replica.apply(response.events)
+        pass

what was handed over moves the revision
-        self.replica.progressed(watch.next_revision - 1)
+        pass

what was handed over moves the revision
-        self.replica.progressed(watch.next_revision - 1)
+        self.replica.progressed(watch.next_revision)

headers do not move the revision
-        self.replica.progressed(watch.next_revision - 1)
+        self.replica.progressed(header.revision)

it is ready when its watch is there
-        self.ready.set()
+        pass

a response is told
-        self.ready.set()
+        self.ready.set()
+        return

the first doubt is the reason
-        if self._watching is not None and not self._watching.cancel_called:
+        if self._watching is not None:

a doubt is told
-            self._doubt = why
+            pass

a doubt ends the watch
-            self._watching.cancel(reason=why)
+            pass

its lines are bounded
-        if self._lines.take(trio.current_time()):
+        if True:

sync: again after a read that may have begun before
-        while not await self._sync_once():
+        if not await self._sync_once():

sync: a count tells of no put
-        check = await self._check(count_request(self._keys), counted=True)
+        check = await self._check(count_request(self._keys), counted=False)

sync: events that come in time are enough
-        with trio.move_on_after(HURRY):
+        with trio.move_on_after(0):

sync: without events more is asked soon
-        with trio.move_on_after(HURRY):
+        with trio.move_on_after(PATIENCE):

sync: after a read anew nothing more is asked
-        if self.resyncs == resyncs:
+        if True:

sync: without events more is asked
-        if self.resyncs == resyncs:
+        if False:

sync: more is asked of what is new
-            request = newest_request(self._keys, self.replica.revision)
+            request = newest_request(self._keys, 0)

sync: more is asked of all that is new
-            request = newest_request(self._keys, self.replica.revision)
+            request = newest_request(self._keys, self.replica.revision + 1)

sync: a second read settles
-            check = await self._check(request, counted=False)
+            check = await self._check(request, counted=True)

sync: a silent living watch is given up
-            with trio.move_on_at(min(now + PATIENCE, since + MAX_PATIENCE)) as scope:
+            with trio.CancelScope() as scope:

sync: a silent living watch is given up in time
-            with trio.move_on_at(min(now + PATIENCE, since + MAX_PATIENCE)) as scope:
+            with trio.move_on_at(min(now + 2 * PATIENCE, since + MAX_PATIENCE)) as scope:

sync: a watch has some time
-            with trio.move_on_at(min(now + PATIENCE, since + MAX_PATIENCE)) as scope:
+            with trio.move_on_at(min(now + PATIENCE / 2, since + MAX_PATIENCE)) as scope:

sync: one that was just created has time
-            with trio.move_on_at(min(now + PATIENCE, since + MAX_PATIENCE)) as scope:
+            with trio.move_on_at(since + PATIENCE) as scope:

sync: a watch that flaps is given up
-            with trio.move_on_at(min(now + PATIENCE, since + MAX_PATIENCE)) as scope:
+            with trio.move_on_at(now + PATIENCE) as scope:

sync: a watch that brings something is not given up
-            if scope.cancelled_caught:
+            if True:

sync: a watch that flaps is given up
-            if self.replica.revision > revision:
+            if True:

sync: a dead watch is not given up
-                if self._is_living():
+                if True:

sync: another cluster tells nothing
-        return check if self._continues(known, check.header) else None
+        return check

a read is of the known cluster
-            _check_cluster(known, header)
+            pass

a read of a lower term is a lost history
-            _check_term(known, header)
+            pass

what is read of another history is read anew
-        except (ClusterChangedError, Diverged) as exc:
+        except (ClusterChangedError, Diverged) as exc:
+            return False

sync: a read is compared with what was known before it
-        check = await self._reads.ask(request, accept)
+        check, known = await self._reads.ask(request, accept), self.header

sync: who answered is the newest header
-        if settled and behind:
+        if False:

sync: who was overtaken is not
-        if settled and behind:
+        if settled:

verify: another cluster tells nothing
-            if not self._continues(known, read.answered):
+            if False:

verify: a read is compared with what was known before it
-            if not self._continues(known, read.answered):
+            if not self._continues(self.header, read.answered):

sync: a silent living watch is given up
-                    self._distrust("the watch does not bring what a read shows")
+                    pass

sync: a read finds a lost history
-            check_of, since=self.replica.revision, counted=counted
+            check_of, since=0, counted=counted

sync: a watch that is being created is not given up
-        return self._watch is not None and self._watch.statistics().state == "live"
+        return self._watch is not None

sync: a check may settle
-            settled = self.replica.settle(check)
+            settled = False

sync: a read finds a lost history
-        except Diverged as exc:
+        except Diverged as exc:
+            return False

verify: what is compacted is proved later
-        for _ in range(MAX_PROOFS):
+        for _ in range(1):

verify: not without end
-        for _ in range(MAX_PROOFS):
+        for _ in range(2 * MAX_PROOFS):

verify: what cannot be told is not right
-            if right:
+            if right is not False:

verify: what cannot be told is not wrong
-            if right is False:
+            if not right:

verify: at a newer revision
-            await self.sync()
+            pass

verify: what is always compacted is read anew
-            self._distrust("what is to be proved is compacted time after time")
+            pass

verify: what is wrong is mended on return
-                break
+                return False

verify: at the revision of the mapping
-            revision=proof.revision,
+            revision=0,

verify: without values
-            keys_only=True,
+            keys_only=False,

verify: of what is not proved yet
-            above=proof.since,
+            above=0,

verify: in one page
-            first_page=MAX_KEYS,
+            first_page=1000,

verify: a proof of before a relist tells nothing
-            return self.replica.prove(proof, read.data, read.count) or None
+            return self.replica.prove(proof, read.data, read.count)

verify: compares
-            return self.replica.prove(proof, read.data, read.count) or None
+            return True

verify: what is compacted is proved later
-        except CompactedError:
+        except CompactedError:
+            return True

verify: what is wrong is read anew
-        except (ClusterChangedError, Diverged, FutureRevisionError) as exc:
+        except (ClusterChangedError, Diverged, FutureRevisionError) as exc:
+            return False

verify: a proof of the future is a lost history
-        except (ClusterChangedError, Diverged, FutureRevisionError) as exc:
+        except (ClusterChangedError, Diverged) as exc:
"""
