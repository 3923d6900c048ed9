# SPDX-License-Identifier: GPL-2.0-only
"""A counterexample as the skeleton of a KVM selftest (tools/testing/selftests/kvm)."""

from septum.report.selftest.skeleton import NoSelftest, selftest

__all__ = ["NoSelftest", "selftest"]
