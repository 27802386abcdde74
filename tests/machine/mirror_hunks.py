"""What `follower_mutations` breaks in the mirror: rule, line, and what is there instead."""

MIRROR = """
connected while its watch lives
-            connected=since is None,
+            connected=True,

disconnected since then
-            disconnected_since=since,
+            disconnected_since=None,

resyncs are told
-            resyncs=follower.resyncs,
+            resyncs=0,

changes since the call
-        return Changes(self, Consumer(self._live(), initial=initial))
+        return Changes(self, Consumer(self._live(), initial=True))

everything first
-        return Changes(self, Consumer(self._live(), initial=initial))
+        return Changes(self, Consumer(self._live(), initial=False))

a predicate can be called
-        if not callable(predicate):
+        if False:

wait_for is a checkpoint
-        await trio.lowlevel.checkpoint()
+        pass

wait_for raises once it was left
-            await self._check_kept()
+            pass

a predicate is asked
-            if predicate(self):
+            if True:

a predicate is asked at once
-            if predicate(self):
+            await self._follower.moved.park()
+            if predicate(self):

a predicate is asked after each response
-            await self._follower.moved.park()
+            await self._follower.moved.park()
+            await self._follower.moved.park()

what is asked once it was left raises
-        await self._check_kept()
+        pass

who asks is known
-            self._asking.add(scope)
+            self._asking = {scope}

who asked is forgotten
-                self._asking.remove(scope)
+                pass

who asks is told that it was left
-        raise trio.ClosedResourceError(_LEFT)
+        return await question()

outside its block it raises
-        self._closed = True
+        pass

leaving ends what is asked
-            scope.cancel(reason="the mirror was left")
+            pass

leaving wakes who waits
-        self._follower.moved.unpark_all()
+        pass

one task at a time takes changes
-        if self._taking:
+        if False:

one task at a time takes changes
-        self._taking = True
+        pass

who is cancelled is in nobody's way
-            self._taking = False
+            pass

taking changes is a checkpoint
-            await trio.lowlevel.checkpoint()
+            pass

who is cancelled with it is told that alone
-            await trio.lowlevel.checkpoint_if_cancelled()
+            pass

changes raise once it was left
-                await self._mirror._check_kept()
+                pass

it follows
-                nursery.start_soon(follow, scope.cancel)
+                pass

a failure cancels the body alone
-                nursery.start_soon(follow, scope.cancel)
+                nursery.start_soon(follow, nursery.cancel_scope.cancel)

it is proved
-                nursery.start_soon(follower.keep_proved)
+                pass

it is entered once it is ready
-                await follower.ready.wait()
+                await trio.lowlevel.checkpoint()

the body's own comes out
-            body = exc
+            pass

a failure comes out
-            failure = follower.failure
+            pass

outside its block it raises
-            mirror._close()
+            pass

cancelled around it, the body's own comes out
-            nursery.cancel_scope.shield = True
+            pass

the body's own has the failure as context
-        if failure is not None and isinstance(body.__context__, trio.Cancelled | None):
+        if False:

the body's own keeps its context
-        if failure is not None and isinstance(body.__context__, trio.Cancelled | None):
+        if failure is not None:

without a failure its context stays
-        if failure is not None and isinstance(body.__context__, trio.Cancelled | None):
+        if isinstance(body.__context__, trio.Cancelled | None):

the body's own has the failure as context
-            body.__context__ = failure
+            pass

the body's own comes out
-        raise body
+        raise failure or body

a failure comes out
-        raise failure
+        pass
"""
