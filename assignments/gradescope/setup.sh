#!/bin/sh
apt-get update && apt-get install -y python3-pip util-linux
# A CPU build of PyTorch is enough: install one here, and the image stays small.
pip install "$(ls /autograder/source/flatlab-*.whl)[grade]"
