# SPDX-License-Identifier: GPL-2.0-only
"""What the linked objects need and nobody defines: stubs, made as assembler text.

A function becomes a trap that reports ``UNMODELLED name called from ...``; a variable becomes
zeroed memory outside the image's own data.  A static call goes to its kvm_x86_ops member, as in
a running kernel.  Allocators of every version end in `septum_kmalloc`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

__all__ = ["QUIET", "assembler", "rename_table"]

MODEL_PREFIX = "septum_m_"

# (argument register with the size, or two to multiply): kernel allocators, any version.
_ALLOCATORS: Mapping[str, str] = {
    "__kmalloc_noprof": "",
    "__kmalloc_large_noprof": "",
    "__kmalloc_cache_noprof": "mov %rdx,%rdi",
    "__kmalloc_node_noprof": "",
    "__kvmalloc_node_noprof": "",
    "__vcalloc_noprof": "imul %rsi,%rdi",
    "vcalloc_noprof": "imul %rsi,%rdi",
    "__vmalloc_noprof": "",
    "vzalloc_noprof": "",
    "kvmalloc_array_noprof": "imul %rsi,%rdi",
}
QUIET = frozenset(
    {
        "debugfs_remove_recursive",
        "kobject_uevent_env",
        "add_uevent_var",
        "preempt_notifier_dec",
        "preempt_notifier_inc",
        "preempt_notifier_register",
        "preempt_notifier_unregister",
        "kcsan_enable_current_nowarn",
        "kcsan_disable_current",
        "rcu_note_context_switch",
        "get_task_pid",
        "put_pid",
        "__cpuhp_setup_state",
        "__cpuhp_setup_state_cpuslocked",
        "register_syscore",
        "register_syscore_ops",
        "perf_register_guest_info_callbacks",
        "kvm_uevent_notify_change",
        "kvm_irqfd_release",
        "__cpuhp_remove_state",
        "unregister_syscore",
        "unregister_syscore_ops",
        "trace_event_buffer_commit",
        "kvm_dirty_ring_reset",
        "__copy_overflow",
        "__warn_printk",
        "kvm_user_return_msr_update_cache",
        "invept_error",
        "send_sig_mceerr",
        "rcuwait_wake_up",
        "__srcu_check_read_flavor",
    }
)
"""Functions whose call may be left out: they return 0 and touch nothing that KVM reads."""

_STATIC_CALL = re.compile(r"__SCT__kvm_x86_(\w+)$")


def rename_table(symbols: Iterable[str]) -> dict[str, str]:
    """Models are compiled under a prefix, since the prototypes of versions differ."""
    return {s: s.removeprefix(MODEL_PREFIX) for s in symbols if s.startswith(MODEL_PREFIX)}


def assembler(functions: Iterable[str], variables: Iterable[str], ops: Mapping[str, int]) -> str:
    """The stubs' text.

    :param ops: offsets of the members of ``struct kvm_x86_ops``.
    """
    lines = [".text"]
    names: list[str] = []
    for name in sorted(functions):
        lines += [f".globl {name}", f".type {name},@function", f"{name}:"]
        call = _STATIC_CALL.match(name)
        if call and call[1] in ops:
            lines.append(f" jmp *kvm_x86_ops+{ops[call[1]]}")
        elif name == "__SCT__WARN_trap":
            lines.append(" jmp septum_warn_trap")
        elif name in QUIET or name.startswith("__SCT__tp_func"):
            lines.append(" xorl %eax,%eax\n ret")
        elif name in _ALLOCATORS:
            lines.append(f" {_ALLOCATORS[name]}\n jmp septum_kmalloc")
        else:
            lines += [f" movq $.Lname{len(names)},%rdi", " movq (%rsp),%rsi"]
            lines += [" andq $-16,%rsp", " call septum_unmodelled"]
            names.append(name)
        lines.append(f".size {name},.-{name}")
    lines += ['.section .rodata.septum,"a"']
    lines += [f'.Lname{n}: .asciz "{name}"' for n, name in enumerate(names)]
    lines += ['.section .septum_stub_data,"aw",@nobits', ".balign 4096"]
    for name in sorted(variables):
        lines += [f".globl {name}", f"{name}: .skip 4096"]
    lines.append('.section .note.GNU-stack,"",@progbits')
    return "\n".join(lines) + "\n"
