#include "router/tokenizer.h"
