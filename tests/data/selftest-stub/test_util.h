/* SPDX-License-Identifier: GPL-2.0-only */
#include <stdio.h>

#define TEST_ASSERT(cond, ...) do { if (!(cond)) TEST_FAIL(__VA_ARGS__); } while (0)
#define TEST_FAIL(...) printf(__VA_ARGS__)
#define TEST_REQUIRE(cond) TEST_ASSERT(cond, "%s", #cond)

unsigned int atoi_positive(const char *name, const char *num_str);
