#include "worker/experts/expert_table.h"
