------------------------------- MODULE Freeze -------------------------------
(* SPDX-License-Identifier: GPL-2.0-only *)
(* The protocol of freeze.py, step by step.  Broken: unfrozen too early.     *)
EXTENDS Naturals, Sequences, TLC

CONSTANTS Faults, Broken

Levels == 1..3              \* 1: the leaf, 3: what the root points to
Vcpus == 1..Faults
Host == 0

VARIABLES mirror, sept, readers, writer, pc, level, lost, ordered

vars == <<mirror, sept, readers, writer, pc, level, lost, ordered>>
tree == <<mirror, sept, ordered>>
locks == <<readers, writer>>

Init ==
  /\ mirror = [n \in Levels |-> "none"]
  /\ sept = [n \in Levels |-> "none"]
  /\ readers = 0
  /\ writer = FALSE
  /\ pc = [p \in Vcpus \cup {Host} |-> "lock"]
  /\ level = [p \in Vcpus |-> 3]
  /\ lost = [p \in Vcpus |-> FALSE]
  /\ ordered = TRUE         \* nothing was added before its parent, or twice

Goto(p, where) == pc' = [pc EXCEPT ![p] = where]

(* Down one level, or done. *)
Down(p) ==
  IF level[p] = 1
  THEN Goto(p, "unlock") /\ UNCHANGED level
  ELSE Goto(p, "read") /\ level' = [level EXCEPT ![p] = @ - 1]

Lock(p) ==
  /\ pc[p] = "lock" /\ ~writer
  /\ readers' = readers + 1
  /\ level' = [level EXCEPT ![p] = 3]
  /\ lost' = [lost EXCEPT ![p] = FALSE]
  /\ Goto(p, "read")
  /\ UNCHANGED <<tree, writer>>

Read(p) ==
  /\ pc[p] = "read"
  /\ CASE mirror[level[p]] = "frozen" -> Goto(p, "leave") /\ UNCHANGED level
       [] mirror[level[p]] = "present" -> Down(p)
       [] OTHER -> Goto(p, "cmpxchg") /\ UNCHANGED level
  /\ UNCHANGED <<tree, locks, lost>>

Cmpxchg(p) ==
  /\ pc[p] = "cmpxchg"
  /\ IF mirror[level[p]] = "none"
     THEN /\ mirror' = [mirror EXCEPT ![level[p]] = "frozen"]
          /\ Goto(p, IF Broken THEN "unfreeze" ELSE "add")
          /\ UNCHANGED lost
     ELSE /\ lost' = [lost EXCEPT ![p] = TRUE]
          /\ Goto(p, "leave")
          /\ UNCHANGED mirror
  /\ UNCHANGED <<sept, ordered, locks, level>>

Add(p) ==
  /\ pc[p] = "add"
  /\ ordered' = (ordered /\ sept[level[p]] = "none"
                 /\ (level[p] = 3 \/ sept[level[p] + 1] = "present"))
  /\ sept' = [sept EXCEPT ![level[p]] = "present"]
  /\ IF Broken THEN Down(p) ELSE Goto(p, "unfreeze") /\ UNCHANGED level
  /\ UNCHANGED <<mirror, locks, lost>>

Unfreeze(p) ==
  /\ pc[p] = "unfreeze"
  /\ mirror' = [mirror EXCEPT ![level[p]] = "present"]
  /\ IF Broken THEN Goto(p, "add") /\ UNCHANGED level ELSE Down(p)
  /\ UNCHANGED <<sept, ordered, locks, lost>>

Unlock(p) ==
  /\ pc[p] = "unlock"
  /\ readers' = readers - 1
  /\ Goto(p, "done")
  /\ UNCHANGED <<tree, writer, level, lost>>

Leave(p) ==
  /\ pc[p] = "leave"
  /\ readers' = readers - 1
  /\ Goto(p, IF lost[p] THEN "lock" ELSE "wait")
  /\ UNCHANGED <<tree, writer, level, lost>>

Wait(p) ==
  /\ pc[p] = "wait" /\ mirror[level[p]] # "frozen"
  /\ Goto(p, "lock")
  /\ UNCHANGED <<tree, locks, level, lost>>

Fault(p) ==
  \/ Lock(p) \/ Read(p) \/ Cmpxchg(p) \/ Add(p) \/ Unfreeze(p) \/ Unlock(p)
  \/ Leave(p) \/ Wait(p)

Look(n, next) ==
  /\ pc[Host] = "look" \o ToString(n)
  /\ Goto(Host, IF mirror[n] = "present" THEN next ELSE "unlock")
  /\ UNCHANGED <<tree, locks, level, lost>>

Zap ==
  \/ /\ pc[Host] = "lock" /\ ~writer /\ readers = 0
     /\ writer' = TRUE
     /\ Goto(Host, "look3")
     /\ UNCHANGED <<tree, readers, level, lost>>
  \/ Look(3, "look2")
  \/ Look(2, "look1")
  \/ Look(1, "clear")
  \/ /\ pc[Host] = "clear"
     /\ mirror' = [mirror EXCEPT ![1] = "none"]
     /\ Goto(Host, "BLOCK")
     /\ UNCHANGED <<sept, ordered, locks, level, lost>>
  \/ /\ pc[Host] \in {"BLOCK", "TRACK"}
     /\ ordered' = (ordered /\ sept[1] = "present")
     /\ Goto(Host, IF pc[Host] = "BLOCK" THEN "TRACK" ELSE "REMOVE")
     /\ UNCHANGED <<mirror, sept, locks, level, lost>>
  \/ /\ pc[Host] = "REMOVE"
     /\ ordered' = (ordered /\ sept[1] = "present")
     /\ sept' = [sept EXCEPT ![1] = "none"]
     /\ Goto(Host, "unlock")
     /\ UNCHANGED <<mirror, locks, level, lost>>
  \/ /\ pc[Host] = "unlock"
     /\ writer' = FALSE
     /\ Goto(Host, "done")
     /\ UNCHANGED <<tree, readers, level, lost>>

Quiet == \A p \in Vcpus \cup {Host} : pc[p] = "done"

Next == (\E p \in Vcpus : Fault(p)) \/ Zap \/ (Quiet /\ UNCHANGED vars)

Spec == Init /\ [][Next]_vars

Order == ordered
Agree == Quiet => mirror = sept
=============================================================================
