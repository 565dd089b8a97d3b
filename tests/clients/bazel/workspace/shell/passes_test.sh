#!/bin/sh
echo the passing script ran
