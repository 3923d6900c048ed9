# SPDX-License-Identifier: GPL-2.0-only
"""Mutants of the vCPU loop, of requests and of kicks (facts 5.2, 5.4, 5.6)."""

from __future__ import annotations

from typing import Final

from septum.designs.mutants_base import Mutant, change, toggles

__all__ = ["MUTANTS", "TOGGLES"]

_ENTER: Final = "vcpu_enter_guest"
_MODE: Final = "    irqs_off_and_in_guest_mode(vcpu)\n"
_UNLOCK: Final = "    fn.kvm_vcpu_srcu_read_unlock(vcpu)\n"
_EXIT_TEST: Final = (
    "    if fn.kvm_vcpu_exit_request(vcpu):\n"
    '        vcpu.m.reach("a request stopped a vCPU before it entered")\n'
    "        outside_guest_mode_and_irqs_on(vcpu)\n"
    "        fn.kvm_vcpu_srcu_read_lock(vcpu)\n"
    "        return 1\n"
)
_RUN: Final = "tdx_vcpu_run"
_FLAG: Final = (
    "    if wait.read():\n"
    "        m.blame(wait)\n"
    '        m.reach("vCPU saw wait_for_sept_zap")\n'
    "        return EXIT_FASTPATH_EXIT_HANDLED\n"
)
_DEAD: Final = "    if requests & KVM_REQ_VM_DEAD:\n        return -EIO\n"

MUTANTS: Final = (
    # --- 5.2 keeping vCPUs out ------------------------------------------------------------
    Mutant(
        "flag-ignored",
        "5.2",
        "a vCPU does not look at wait_for_sept_zap",
        "zap-zero-step",
        "I8",
        (change(_RUN, _FLAG, ""),),
    ),
    Mutant(
        "flag-tested-early",
        "5.2",
        "a vCPU looks at wait_for_sept_zap before its mode is IN_GUEST_MODE",
        "zap-rerun",
        "I8",
        (
            change(_RUN, _FLAG, ""),
            change(
                _ENTER,
                _MODE,
                "    wait = vcpu.kvm.tdx.wait_for_sept_zap\n"
                "    if wait.read():\n"
                "        vcpu.m.blame(wait)\n"
                "        return 1\n" + _MODE,
            ),
        ),
    ),
    Mutant(
        "busy-entry-is-an-error",
        "5.2",
        "VP.ENTER that returns BUSY is not repeated but reported to userspace",
        "install-zero-step",
        "I8",
        (change(_RUN, "if kvm.fn.tdx_operand_busy(result.rax):", "if False:"),),
        alone=True,
    ),
    # --- 5.6 modes, kicks and requests ----------------------------------------------------
    Mutant(
        "kick-without-wait",
        "5.6",
        "the kicker does not wait until the IPI was handled",
        "zap-running",
        "I8",
        (change("kvm_kick_many_cpus", "        _wait_for_ack(vcpu)\n", "        pass\n"),),
    ),
    Mutant(
        "kick-without-ipi",
        "5.6",
        "a kick changes the vCPU's mode, but sends no IPI",
        "zap-running",
        "I8",
        (
            change(
                "kvm_make_all_cpus_request",
                "if mode != OUTSIDE_GUEST_MODE and _send_ipi(vcpu):",
                "if False:",
            ),
        ),
    ),
    Mutant(
        "mode-set-late",
        "5.6",
        "mode becomes IN_GUEST_MODE after the exit test",
        "vm-dies",
        "I24",
        (
            change(_ENTER, _MODE + _UNLOCK, _UNLOCK),
            change(
                _ENTER,
                "    exit_fastpath = fn.vt_vcpu_run(vcpu)\n",
                _MODE + "    exit_fastpath = fn.vt_vcpu_run(vcpu)\n",
            ),
            change(
                _ENTER,
                "        outside_guest_mode_and_irqs_on(vcpu)\n        fn.kvm",
                "        fn.kvm",
            ),
        ),
        alone=True,
    ),
    Mutant(
        "no-exit-test",
        "5.6",
        "a vCPU does not look for requests and kicks before it enters",
        "vm-dies",
        "I24",
        (change(_ENTER, _EXIT_TEST, ""),),
        alone=True,
    ),
    Mutant(
        "vm-dead-without-kick",
        "5.2",
        "a dead VM's vCPUs get the request, but no kick",
        "vm-dies",
        "I24",
        (
            change(
                "kvm_vm_dead",
                "    kvm.fn.kvm_make_all_cpus_request(kvm, KVM_REQ_VM_DEAD)\n",
                "    for vcpu in kvm.vcpus:\n"
                "        kvm.fn.kvm_make_request(vcpu, KVM_REQ_VM_DEAD)\n",
            ),
        ),
        alone=True,
    ),
    Mutant(
        "vm-dead-without-request",
        "5.2",
        "a dead VM's vCPUs are kicked, but get no request",
        "vm-dies",
        "I24",
        (
            change(
                "kvm_vm_dead",
                "kvm_make_all_cpus_request(kvm, KVM_REQ_VM_DEAD)",
                "kvm_make_all_cpus_request(kvm, 0)",
            ),
        ),
        alone=True,
    ),
    Mutant(
        "vm-dead-request-consumed",
        "5.2",
        "a vCPU takes KVM_REQ_VM_DEAD for an ordinary request: it clears it and goes on",
        "vm-dies",
        "I24",
        (
            change(
                "kvm_handle_requests",
                _DEAD,
                "    if requests & KVM_REQ_VM_DEAD:\n"
                "        vcpu.requests.fetch_and(~KVM_REQ_VM_DEAD)\n",
            ),
        ),
        alone=True,
    ),
    # --- 5.4 the retry loop ---------------------------------------------------------------
    Mutant(
        "retry-ignores-vm-dead",
        "5.4 step 3",
        "the local retry loop does not end when the VM is dead",
        "install-leaf-fails",
        "",
        (
            change(
                "tdx_ept_violation_loop",
                "        if vcpu.requests.read() & KVM_REQ_VM_DEAD:\n            return -EIO\n",
                "",
            ),
        ),
        survives=(
            "no scenario: the injected failure is over at the next attempt, which succeeds; a "
            "failure that stays would be retried for ever"
        ),
    ),
    Mutant(
        "bugged-vm-lives",
        "5.2",
        "kvm_vm_bugged() does not declare the VM dead",
        "install-leaf-fails",
        "",
        (change("kvm_vm_bugged", "    kvm.fn.kvm_vm_dead(kvm)\n", ""),),
        survives=(
            "no monitor: I24 begins when kvm_vm_dead() has returned, and that is what is "
            "missing here"
        ),
    ),
)

TOGGLES: Final = toggles(MUTANTS)
