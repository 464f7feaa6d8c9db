"""Prints the metadata of a .tflite file as tflite-support reads them: a script for an environment that has it."""

import json
import sys

from tflite_support import metadata

displayer = metadata.MetadataDisplayer.with_model_file(sys.argv[1])
files = {
    name: displayer.get_associated_file_buffer(name).decode() for name in displayer.get_packed_associated_file_list()
}
print(json.dumps({"metadata": json.loads(displayer.get_metadata_json()), "files": files}))
