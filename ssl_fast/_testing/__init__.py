"""What the tests of every op share: samples, the tolerance rule, checks that work on any op."""
