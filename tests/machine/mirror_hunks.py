"""Mutations of the mirror, read by `follower_mutations`: rule, line, replacement."""

MIRROR = """
says_since_when: connected while its watch lives
-            connected=since is None,
+            connected=True,

says_since_when: disconnected since then
-            disconnected_since=since,
+            disconnected_since=None,

says_since_when: resyncs are reported
-            resyncs=follower.resyncs,
+            resyncs=0,

first_is_everything: changes since the call
-        return construct(Changes, self, Consumer(self._live(), initial=initial))
+        return construct(Changes, self, Consumer(self._live(), initial=True))

first_is_everything: everything first
-        return construct(Changes, self, Consumer(self._live(), initial=initial))
+        return construct(Changes, self, Consumer(self._live(), initial=False))

checked_arguments: a predicate can be called
-        if not callable(predicate):
+        if False:

always_a_checkpoint: wait_for is a checkpoint
-        await trio.lowlevel.checkpoint()
+        pass

closed_when_left: wait_for raises once it is closed
-            await self._check_kept()
+            pass

predicate_holds: a predicate is asked
-            if predicate(self):
+            if True:

predicate_holds: a predicate is asked at once
-            if predicate(self):
+            await self._follower.moved.park()
+            if predicate(self):

predicate_holds: a predicate is asked after each response
-            await self._follower.moved.park()
+            await self._follower.moved.park()
+            await self._follower.moved.park()

closed_when_left: a call raises once it is closed
-        await self._check_kept()
+        pass

closed_when_left: calls under way are registered
-            self._asking.add(scope)
+            self._asking = {scope}

closed_when_left: finished calls are removed
-                self._asking.remove(scope)
+                pass

closed_when_left: a call under way raises when it is closed
-        raise trio.ClosedResourceError(_CLOSED)
+        return await question()

closed_when_left: outside its block it raises
-        self._closed = True
+        pass

closed_when_left: closing ends calls under way
-            scope.cancel(reason="the mirror is closed")
+            pass

closed_when_left: closing wakes waiters
-        self._follower.moved.unpark_all()
+        pass

one_task_at_a_time: one task at a time takes changes
-        if self._iterating:
+        if False:

one_task_at_a_time: one task at a time takes changes
-        self._iterating = True
+        pass

one_task_at_a_time: a cancelled task blocks no other
-            self._iterating = False
+            pass

always_a_checkpoint: taking changes is a checkpoint
-            await trio.lowlevel.checkpoint()
+            pass

cancel_loses_nothing: a task cancelled with it sees only the cancel
-            await trio.lowlevel.checkpoint_if_cancelled()
+            pass

closed_when_left: changes raise once it is closed
-                await self._mirror._check_kept()
+                pass

equal: it follows
-                nursery.start_soon(follow, scope.cancel)
+                pass

ends_in_the_error: a failure cancels the body alone
-                nursery.start_soon(follow, scope.cancel)
+                nursery.start_soon(follow, nursery.cancel_scope.cancel)

proof: it is proved
-                nursery.start_soon(follower.keep_proved)
+                pass

entered_when_watched: it is entered once it is ready
-                await follower.ready.wait()
+                await trio.lowlevel.checkpoint()

ends_in_the_error: the body's own error comes out
-            body = exc
+            pass

ends_in_the_error: a failure comes out
-            failure = follower.failure
+            pass

closed_when_left: outside its block it raises
-            mirror._close()
+            pass

ends_in_the_error: cancelled around it, the body's own error comes out
-            nursery.cancel_scope.shield = True
+            pass

ends_in_the_error: the body's own error has the failure as context
-        if failure is not None and isinstance(body.__context__, trio.Cancelled | None):
+        if False:

ends_in_the_error: the body's own error keeps its context
-        if failure is not None and isinstance(body.__context__, trio.Cancelled | None):
+        if failure is not None:

ends_in_the_error: without a failure its context stays
-        if failure is not None and isinstance(body.__context__, trio.Cancelled | None):
+        if isinstance(body.__context__, trio.Cancelled | None):

ends_in_the_error: the body's own error has the failure as context
-            body.__context__ = failure
+            pass

ends_in_the_error: the body's own error comes out
-        raise body
+        raise failure or body

ends_in_the_error: a failure comes out
-        raise failure
+        pass
"""
