#!/bin/sh
echo printed before the timeout
sleep 600
