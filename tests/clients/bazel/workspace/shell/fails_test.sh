#!/bin/sh
echo stdout of the failing script
echo stderr of the failing script >&2
exit 5
