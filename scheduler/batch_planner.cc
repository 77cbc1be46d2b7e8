#include "scheduler/batch_planner.h"
