#!/bin/sh
echo run by its executable bit
