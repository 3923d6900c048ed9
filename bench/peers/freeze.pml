/* SPDX-License-Identifier: GPL-2.0-only */
/* The protocol of freeze.py, step by step.  -DFAULTS=n, -DBROKEN: unfrozen too early. */

#ifndef FAULTS
#define FAULTS 2
#endif
#define LEVELS 3
#define NONE 0
#define FROZEN 1
#define PRESENT 2

byte mirror[LEVELS];	/* 0: the leaf */
byte sept[LEVELS];
byte readers;
bool writer;
byte running = FAULTS + 1;

inline add()		/* TDH.MEM.SEPT.ADD or PAGE.AUG: one step */
{
	d_step {
		assert(level + 1 == LEVELS || sept[level + 1] == PRESENT);
		assert(sept[level] == NONE);
		sept[level] = PRESENT
	}
}

inline unfreeze()
{
	mirror[level] = PRESENT
}

active [FAULTS] proctype fault()
{
	byte level, old;
	bool again;

start:	atomic { !writer -> readers++; level = LEVELS; again = false }
walk:	do
	:: level == 0 -> break
	:: level > 0 ->
		atomic { level--; old = mirror[level] };
		if
		:: old == FROZEN -> goto retry
		:: old == PRESENT -> skip
		:: old == NONE ->
			d_step {	/* cmpxchg */
				if
				:: mirror[level] == NONE -> mirror[level] = FROZEN
				:: else -> again = true
				fi
			}
			if
			:: again -> goto retry
			:: else -> skip
			fi;
#ifdef BROKEN
			unfreeze();
			add()
#else
			add();
			unfreeze()
#endif
		fi
	od;
	atomic { readers--; running--; level = 0; old = 0 }
	goto done;

retry:	readers--;
	if
	:: again -> skip			/* lost: what it worked from is stale */
	:: else -> mirror[level] != FROZEN	/* wait */
	fi;
	goto start;
done:	skip
}

active proctype host()
{
	atomic { !writer && readers == 0 -> writer = true }
	if
	:: mirror[2] != PRESENT -> goto out
	:: else -> skip
	fi;
	if
	:: mirror[1] != PRESENT -> goto out
	:: else -> skip
	fi;
	if
	:: mirror[0] != PRESENT -> goto out
	:: else -> skip
	fi;
	mirror[0] = NONE;
	assert(sept[0] == PRESENT);				/* BLOCK */
	assert(sept[0] == PRESENT);				/* TRACK */
	atomic { assert(sept[0] == PRESENT); sept[0] = NONE };	/* REMOVE */
out:	atomic { writer = false; running-- }
}

active proctype judge()
{
	running == 0;
	d_step {
		assert(mirror[0] == sept[0]);
		assert(mirror[1] == sept[1]);
		assert(mirror[2] == sept[2])
	}
}
